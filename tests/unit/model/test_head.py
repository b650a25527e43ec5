"""The chunked head against plain cross-entropy over all logits, and its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_dream.model.head import masked_cross_entropy, padded_row_count


def reference(
    hidden: Tensor, table: Tensor, labels: Tensor, weights: Tensor, vocab_size: int
) -> tuple[Tensor, Tensor]:
    logits = (hidden @ table.t())[:, :vocab_size].float()
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return (each * weights).sum(), each


def inputs(
    rows: int, hidden: int, table_rows: int, vocab: int, seed: int = 0
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, hidden, generator=generator, dtype=torch.float64).float(),
        torch.randn(table_rows, hidden, generator=generator),
        torch.randint(0, vocab, (rows,), generator=generator),
        torch.rand(rows, generator=generator),
    )


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 20),
    vocab=st.integers(2, 40),
    padding=st.integers(0, 5),
    chunk=st.integers(1, 24),
)
def test_loss_and_gradients_equal_plain_cross_entropy(
    rows: int, vocab: int, padding: int, chunk: int
) -> None:
    hidden, table, labels, weights = inputs(rows, 7, vocab + padding, vocab)
    mine = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
    theirs = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
    loss, each, correct = masked_cross_entropy(
        mine[0], mine[1], labels, weights, vocab_size=vocab, chunk_rows=chunk
    )
    expected, expected_each = reference(theirs[0], theirs[1], labels, weights, vocab)
    (3.0 * loss).backward()
    (3.0 * expected).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(each, expected_each, rtol=1e-5, atol=1e-5)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    top = (hidden @ table.t())[:, :vocab].argmax(dim=1)
    assert torch.equal(correct, top == labels)


@settings(max_examples=200, deadline=None)
@given(count=st.integers(0, 5000), multiple=st.integers(0, 700))
def test_a_bucket_is_the_smallest_multiple_that_holds_the_rows(count: int, multiple: int) -> None:
    found = padded_row_count(count, multiple)
    if multiple < 2:
        assert found == count
        return
    assert found % multiple == 0 and 0 <= found - count < multiple


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20),
    multiple=st.integers(1, 9),
    chunk=st.integers(1, 24),
    bf16=st.booleans(),
)
def test_rows_of_weight_zero_change_nothing(
    rows: int, multiple: int, chunk: int, bf16: bool
) -> None:
    """0 x w = 0 exactly: what is added to every sum of loss and gradients is 0."""
    hidden, table, labels, weights = inputs(rows, 7, 12, 11)
    if bf16:
        hidden, table = hidden.bfloat16(), table.bfloat16()
    added = padded_row_count(rows, multiple) - rows
    first = torch.cat([torch.arange(rows), torch.zeros(added, dtype=torch.long)])
    padded_weights = torch.nn.functional.pad(weights, (0, added))
    results = []
    for index, weight in ((torch.arange(rows), weights), (first, padded_weights)):
        leaves = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
        loss, each, _ = masked_cross_entropy(
            leaves[0][index], leaves[1], labels[index], weight, vocab_size=11, chunk_rows=chunk
        )
        loss.backward()
        results.append((loss.detach(), each[:rows], leaves[0].grad, leaves[1].grad))
    # Products of other shapes may add in another order: rounding, nothing else.
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if bf16 else {"rtol": 1e-6, "atol": 1e-6}
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


def test_bf16_stays_near_fp32() -> None:
    hidden, table, labels, weights = inputs(64, 32, 100, 100)
    small = (hidden / 6).bfloat16().requires_grad_(), table.bfloat16().requires_grad_()
    loss, _, _ = masked_cross_entropy(*small, labels, weights, vocab_size=100, chunk_rows=16)
    loss.backward()
    wide = [t.detach().float().requires_grad_() for t in small]
    expected, _ = reference(wide[0], wide[1], labels, weights, 100)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    for a, b in zip(small, wide, strict=True):
        assert a.grad is not None and a.grad.dtype == torch.bfloat16
        assert float((a.grad.float() - b.grad).norm() / b.grad.norm()) < 2e-2


def test_without_gradient_nothing_is_kept_for_one() -> None:
    hidden, table, labels, weights = inputs(9, 5, 11, 11)
    with torch.no_grad():
        loss, _, _ = masked_cross_entropy(hidden, table, labels, weights, vocab_size=11)
    expected, _ = reference(hidden, table, labels, weights, 11)
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad


@pytest.mark.parametrize("has_other_use", [False, True])
@pytest.mark.parametrize("rows", [0, 9])
def test_table_gradient_goes_to_the_buffer_of_data_parallelism(
    rows: int, has_other_use: bool
) -> None:
    hidden, table, labels, weights = inputs(rows, 5, 13, 11)
    plain = table.clone().requires_grad_()
    reference(hidden, plain, labels, weights, 11)[0].mul(3.0).backward()
    table.requires_grad_()
    table.main_grad = torch.ones_like(table)  # what another micro-batch left
    loss, _, _ = masked_cross_entropy(
        hidden, table, labels, weights, vocab_size=11, chunk_rows=4, has_other_use=has_other_use
    )
    other = (table * 7.0).sum() if has_other_use else torch.zeros(())
    (3.0 * loss + other).backward()
    torch.testing.assert_close(table.main_grad, 1.0 + plain.grad, rtol=1e-5, atol=1e-5)
    if has_other_use:  # autograd brings the other use's gradient alone
        assert torch.equal(table.grad, torch.full_like(table, 7.0))
    else:  # megatron-core's hook is called and told that the gradient is in the buffer
        assert table.grad is not None and table.grad_added_to_main_grad


class LogitsBytes(TorchDispatchMode):
    """Largest tensor whose last dimension is the vocabulary."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab, self.peak, self.rows = vocab, 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.dim() and value.shape[-1] == self.vocab:
                self.peak = max(self.peak, value.numel() * value.element_size())
                self.rows = max(self.rows, value.numel() // self.vocab)
        return result


@pytest.mark.parametrize("objective", ["diffusion", "ar"])
def test_peak_logits_do_not_depend_on_t(objective: str) -> None:
    """Forward and backward of the whole head at t = 1, 0.5 and 0.1: one chunk of logits at most."""
    vocab, rows, chunk = 997, 256, 32
    for t in (1.0, 0.5, 0.1):
        hidden, table, labels, weights = inputs(int(rows * t), 8, vocab, vocab)
        hidden.requires_grad_()
        table.requires_grad_()
        with LogitsBytes(vocab) as seen:
            loss, _, _ = masked_cross_entropy(
                hidden, table, labels, weights, vocab_size=vocab, chunk_rows=chunk
            )
            loss.backward()
        assert seen.rows == min(chunk, int(rows * t))
        assert seen.peak == seen.rows * vocab * 4


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 20), chunk=st.integers(1, 24), scale=st.floats(0.1, 3.0))
def test_a_loss_of_ones_own_has_autograds_gradient(rows: int, chunk: int, scale: float) -> None:
    hidden, table, labels, weights = inputs(rows, 7, 19, 17)
    mine = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
    theirs = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
    old = torch.linspace(-1, 1, max(rows, 1))[:rows]

    def row_loss(cross_entropy: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        difference = scale * cross_entropy - old[part]
        return difference.square(), 2 * scale * difference

    loss, _, _ = masked_cross_entropy(
        mine[0], mine[1], labels, weights, vocab_size=17, chunk_rows=chunk, row_loss=row_loss
    )
    _, each = reference(theirs[0], theirs[1], labels, weights, 17)
    expected = ((scale * each - old).square() * weights).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    if rows:
        loss.backward()
        expected.backward()
        for found, wanted in zip(mine, theirs, strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-3)
