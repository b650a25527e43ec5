"""The head with a kernel of Liger's interface in place of its softmax: the same losses and gradients.

The kernel itself runs on a GPU only (make gpu-check); here its place is taken by a function of the same
signature and effects, written from its documentation: loss a row, logits replaced by softmax - onehot.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_dream.errors import MissingDependencyError
from megatron_dream.model.fused_softmax import liger_kernel
from megatron_dream.model.head import masked_cross_entropy
from tests.unit.model.test_head import inputs


def cross_entropy_forward(
    _input: Tensor,
    target: Tensor,
    weight: None,
    ignore_index: int,
    lse_square_scale: float,
    label_smoothing: float,
    reduction: str,
    softcap: None,
    return_z_loss: bool,
    return_token_accuracy: bool = False,
    return_predicted_tokens: bool = False,
) -> tuple[Any, ...]:
    assert (weight, softcap, reduction) == (None, None, "none")
    assert lse_square_scale == label_smoothing == 0 and bool((target != ignore_index).all())
    loss = torch.nn.functional.cross_entropy(_input.detach(), target, reduction="none")
    top = _input.detach().argmax(-1)
    if _input.requires_grad:
        onehot = torch.nn.functional.one_hot(target, _input.shape[-1])
        _input.data.copy_(_input.detach().softmax(-1) - onehot)
    return loss, None, None, top, _input


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("liger_kernel", "liger_kernel.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module: Any = types.ModuleType("liger_kernel.ops.cross_entropy")
    module.cross_entropy_forward = cross_entropy_forward
    monkeypatch.setitem(sys.modules, module.__name__, module)


def row_loss(cross_entropy_C: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    return cross_entropy_C.square(), 2 * cross_entropy_C


@pytest.mark.usefixtures("liger")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [None, row_loss])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_equals_the_reference(dtype: torch.dtype, own: Any, temperature: float) -> None:
    """Weights a row, temperature, losses of rl, columns that are no token, a shorter last chunk."""
    hidden, table, labels, weights = inputs(19, 8, 37, 33)
    results = []
    for is_fused in (True, False):
        leaves = [one.to(dtype).requires_grad_() for one in (hidden / 3, table)]
        loss, each, correct = masked_cross_entropy(
            *leaves,
            labels,
            weights,
            vocab_size=33,
            chunk_rows=5,
            temperature=temperature,
            row_loss=own,
            is_fused=is_fused,
        )
        (3.0 * loss).backward()
        assert bool((leaves[1].grad[33:] == 0).all())
        results.append((loss.detach(), each, correct, *(one.grad for one in leaves)))
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("liger")
def test_validation_asks_for_no_gradient() -> None:
    hidden, table, labels, weights = inputs(9, 5, 11, 11)
    with torch.no_grad():
        loss, each, _ = masked_cross_entropy(
            hidden, table, labels, weights, vocab_size=11, is_fused=True
        )
    assert not loss.requires_grad and not each.requires_grad
    expected, *_ = masked_cross_entropy(hidden, table, labels, weights, vocab_size=11)
    torch.testing.assert_close(loss, expected)


def test_what_it_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, table, labels, weights = inputs(3, 5, 11, 11)
    group: Any = object()
    with pytest.raises(ValueError, match="one rank's columns only"):
        masked_cross_entropy(
            hidden, table, labels, weights, vocab_size=11, group=group, is_fused=True
        )
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'megatron-dream\[liger\]'"):
        liger_kernel()
