"""The local layer spec's own functions against what torch and megatron-core compose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megatron_dream.model.activation import SwiGLU
from megatron_dream.model.norm import RMSNorm
from megatron_dream.model.rotary import rotate


def both(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """Outputs and input gradients agree to fp32 rounding."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    results = []
    for function in (ours, theirs):
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        (grad,) = torch.autograd.grad(out, leaf, upstream)
        results.append((out.detach(), grad))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


def test_swiglu_is_silu_of_the_first_half_times_the_second() -> None:
    def composed(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up

    both(SwiGLU(None), composed, (5, 3, 14))


@pytest.mark.parametrize("batch", [1, 3])
def test_rotation_is_megatron_cores(batch: int) -> None:
    from megatron_dream import device  # noqa: F401 - before megatron-core

    rope = pytest.importorskip("megatron.core.models.common.embeddings.rope_utils")
    positions = torch.arange(11).float()
    half = torch.outer(positions, 10_000.0 ** -(torch.arange(4) / 4.0))
    angles = torch.cat([half, half], dim=-1)[:, None, None, :]
    both(
        lambda x: rotate(x, angles),
        lambda x: rope._apply_rotary_pos_emb_bshd(x, angles),
        (11, batch, 2, 8),
    )


def test_norm_is_torchs_and_its_weight_gets_the_same_gradient() -> None:
    norm = RMSNorm(None, 16, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, 16))
    both(norm, lambda x: torch.nn.functional.rms_norm(x, (16,), norm.weight, 1e-5), (4, 3, 16))
    x = torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(3))
    (mine,) = torch.autograd.grad(norm(x).square().sum(), norm.weight)
    reference = torch.nn.functional.rms_norm(x, (16,), norm.weight, 1e-5).square().sum()
    (expected,) = torch.autograd.grad(reference, norm.weight)
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
