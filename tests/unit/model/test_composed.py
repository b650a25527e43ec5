"""What torch.compile is given equals the local layers' own functions, compiled or not."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_dream import device
from megatron_dream.config.schema import TrainingConfig
from megatron_dream.model import composed
from megatron_dream.model.activation import SwiGLU
from megatron_dream.model.build import compiles_parts, fuses_weight_gradients
from megatron_dream.model.norm import RMSNorm
from megatron_dream.model.rotary import rotate

COMPILED = types.SimpleNamespace(compiles_parts=True)


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The output, and the gradient of each input for some gradient of the output."""
    leaves = [one.clone().requires_grad_() for one in inputs]
    out = function(*leaves)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def compare(found: list[Tensor], wanted: list[Tensor], dtype: torch.dtype) -> None:
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 3e-2}[dtype]
    for mine, reference in zip(found, wanted, strict=True):
        assert mine.dtype == reference.dtype
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)


def check_all(dtype: torch.dtype, length: int) -> None:
    """Each part against the one that it stands for, outputs and gradients."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(length, 2, 24, generator=generator).to(dtype)
    compare(gradients(SwiGLU(COMPILED), x), gradients(SwiGLU(None), x), dtype)

    norms = [RMSNorm(config, 24, eps=1e-5).to(dtype) for config in (COMPILED, None)]
    results = []
    for norm in norms:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2.0, 24))
        results.append(gradients(norm, x))
        results[-1] += torch.autograd.grad(norm(x).float().square().sum(), norm.weight)
    compare(*results, dtype)

    query = torch.randn(length, 2, 4, 8, generator=generator).to(dtype)
    key = query[:, :, :2] * 0.5
    half = torch.outer(torch.arange(length).float(), 10_000.0 ** -(torch.arange(4) / 4.0))
    angles = torch.cat([half, half], dim=-1)[:, None, None, :]

    def both(query: Tensor, key: Tensor) -> Tensor:
        return torch.cat(composed.compiled(composed.rotate_both)(query, key, angles), dim=2)

    def each(query: Tensor, key: Tensor) -> Tensor:
        return torch.cat((rotate(query, angles), rotate(key, angles)), dim=2)

    compare(gradients(both, query, key), gradients(each, query, key), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_equals_the_local_functions(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_dream.model.activation.compiled", as_it_is)
    monkeypatch.setattr("megatron_dream.model.norm.compiled", as_it_is)
    monkeypatch.setattr(composed, "compiled", as_it_is)
    check_all(dtype, 5)


@pytest.mark.slow
@pytest.mark.skipif(not device.can_compile(), reason="needs a C++ compiler: apt install g++")
def test_compiled_parts_equal_the_local_functions() -> None:
    """Two widths: the second makes them one for all widths."""
    for dtype in (torch.float32, torch.bfloat16):
        for length in (5, 9, 12):
            check_all(dtype, length)


@pytest.mark.parametrize(
    ("kind", "choice", "spec", "deterministic", "expected"),
    [
        ("cuda", "auto", "local", False, True),
        ("cuda", "auto", "local", True, False),
        ("cuda", "auto", "transformer_engine", False, False),
        ("cuda", "off", "local", False, False),
        ("cpu", "auto", "local", False, False),
        ("cpu", "on", "local", False, True),
    ],
)
def test_when_parts_are_compiled(
    kind: str,
    choice: Any,
    spec: str,
    deterministic: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "device_type", lambda: kind)
    monkeypatch.setattr(device, "can_compile", lambda: True)
    training = TrainingConfig(compile=choice, deterministic=deterministic)
    assert compiles_parts(training, spec) is expected


def test_when_weight_gradients_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fuses_weight_gradients(TrainingConfig(), "local")
    assert fuses_weight_gradients(TrainingConfig(), "transformer_engine")
    monkeypatch.setattr(device, "has_fused_weight_gradients", lambda: True)
    assert fuses_weight_gradients(TrainingConfig(), "local")
    off = TrainingConfig(gradient_accumulation_fusion="off")
    assert not fuses_weight_gradients(off, "local") and not fuses_weight_gradients(
        off, "transformer_engine"
    )
