"""The parallel linear layers' products on a CPU against torch's linear, and what is left to megatron-core.

Tensor parallelism is compared with one process in tests/parallel.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from torch import Tensor

from megatron_dream.model.linear import ColumnParallel, _Product

PLAIN = {
    "sequence_parallel": False,
    "gradient_accumulation_fusion": False,
    "grad_output_buffer": None,
    "allreduce_dgrad": False,
    "tp_group": None,
    "bias": None,
}


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((211, 3, 96), (128, 96), (128,))
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias


@pytest.mark.parametrize("wanted", ["all", "no bias", "weight frozen", "input frozen"])
def test_gradients_are_those_of_torchs_linear(wanted: str) -> None:
    results = []
    for product in (
        lambda x, weight, bias: _Product.apply(x, weight, bias, None),
        torch.nn.functional.linear,
    ):
        x, weight, bias = tensors()
        x.requires_grad_(wanted != "input frozen")
        weight.requires_grad_(wanted != "weight frozen")
        bias.requires_grad_()
        out = product(x, weight, None if wanted == "no bias" else bias)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(4)))
        results.append((out.detach(), x.grad, weight.grad, bias.grad))
    for mine, torchs in zip(*results, strict=True):
        assert (mine is None) == (torchs is None)
        if mine is not None:
            torch.testing.assert_close(mine, torchs, rtol=1e-5, atol=1e-4)


class Layer(ColumnParallel):
    """Without what megatron-core makes in the constructor."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"sequence_parallel": True},
        {"gradient_accumulation_fusion": True},
        {"grad_output_buffer": []},
    ],
)
def test_what_does_more_than_multiply_is_left_to_megatron_core(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = object()
    monkeypatch.setattr(ColumnParallelLinear, "_forward_impl", lambda *_, **__: theirs)
    x, weight, _ = tensors()
    found = Layer()._forward_impl(input=x, weight=weight, **{**PLAIN, **change})
    assert (found is theirs) == bool(change)
    assert Layer()._forward_impl(input=x.double(), weight=weight.double(), **PLAIN) is theirs
