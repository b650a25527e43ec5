"""What a row asks: masks, shift inside segments, weights beside their labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.diffusion.rows import (
    DEAD,
    PREDICTED,
    SEGMENT_START,
    NoisedRow,
    Objective,
    noise_row,
    segment_starts,
    shift_left,
)
from megatron_dream.diffusion.weights import cart_weights

MASK = 999
UNIFORM = Objective.of(weight="uniform", normalize_weight=False)


def row_of(
    length: int,
    lengths: list[int],
    dead: int,
    t: float,
    objective: Objective,
    seed: int = 0,
    **more,
) -> tuple[np.ndarray, np.ndarray, NoisedRow]:
    rng = np.random.default_rng(seed)
    x0, u = rng.integers(1, 900, length), rng.random(length)
    row = noise_row(x0, lengths, objective, u_S=u, t=t, mask_token_id=MASK, num_dead=dead, **more)
    return x0, u, row


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_row_by_row_definition(data: st.DataObject) -> None:
    """Every field against a loop over positions."""
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    dead, t = data.draw(st.integers(0, 5)), data.draw(st.floats(0.0, 1.0))
    length = sum(lengths) + dead
    prompt = data.draw(st.integers(0, length))
    is_maskable = np.arange(length) >= prompt
    objective = Objective.of(weight="cart", cart_p=0.3)
    x0, u, row = row_of(length, lengths, dead, t, objective, is_maskable_S=is_maskable)
    starts = {0, *np.cumsum(lengths).tolist()} - {length}
    masked = [
        i not in starts and i < length - dead and i >= prompt and u[i] < t for i in range(length)
    ]
    attended = np.arange(length) < length - dead
    is_start = np.array([i in starts for i in range(length)])
    weight = cart_weights(np.array(masked), attended, is_start, p=0.3) * 3.0
    for i in range(length):
        has_next = i + 1 < length and i + 1 not in starts and i < length - dead
        assert row.tokens[i] == (MASK if masked[i] else x0[i])
        assert row.labels[i] == (x0[i + 1] if has_next else 0)
        assert row.loss_weight[i] == (np.float32(weight[i + 1]) if has_next else 0.0)
        assert bool(row.flags[i] & SEGMENT_START) == (i in starts)
        assert bool(row.flags[i] & PREDICTED) == (has_next and masked[i + 1])
        assert bool(row.flags[i] & DEAD) == (i >= length - dead)
    assert row.num_maskable == sum(
        i not in starts and prompt <= i < length - dead for i in range(length)
    )


def test_labels_are_rolled_left_not_right() -> None:
    """The model at i - 1 predicts the masked token i."""
    x0 = np.arange(1, 9)
    u = np.ones(8)
    u[3] = 0.0
    row = noise_row(x0, [8], UNIFORM, u_S=u, t=0.5, mask_token_id=MASK)
    assert row.tokens.tolist() == [1, 2, 3, MASK, 5, 6, 7, 8]
    assert np.flatnonzero(row.flags & PREDICTED).tolist() == [2]
    assert np.flatnonzero(row.loss_weight).tolist() == [2]
    assert row.labels[2] == 4 and row.labels.tolist() == [2, 3, 4, 5, 6, 7, 8, 0]


def test_slicing_columns_after_the_shift_keeps_every_label() -> None:
    _, _, row = row_of(64, [64], 0, 0.5, UNIFORM)
    halves = [np.split(a, 2) for a in (row.labels, row.loss_weight)]
    asked = {(int(y), float(w)) for y, w in zip(row.labels, row.loss_weight, strict=True) if w}
    found = {
        (int(y), float(w))
        for k in (0, 1)
        for y, w in zip(halves[0][k], halves[1][k], strict=True)
        if w
    }
    assert found == asked


def test_complement_masks_exactly_the_others() -> None:
    _, _, one = row_of(256, [100, 156], 0, 0.3, UNIFORM)
    _, _, two = row_of(256, [100, 156], 0, 0.3, UNIFORM, complement=True)
    first, second = one.tokens == MASK, two.tokens == MASK
    assert not (first & second).any()
    assert (first | second).sum() == 254 and not (first | second)[[0, 100]].any()
    assert second.sum() > first.sum()


def test_complement_is_weighed_at_its_own_time() -> None:
    objective = Objective.of(weight="inverse_t", normalize_weight=False)
    _, _, one = row_of(64, [64], 0, 0.25, objective)
    _, _, two = row_of(64, [64], 0, 0.25, objective, complement=True)
    assert one.loss_weight.max() == 4.0 and two.loss_weight.max() == np.float32(1 / 0.75)


def test_ar_asks_every_next_token() -> None:
    x0, _, row = row_of(12, [5, 4], 3, 0.9, Objective.of("ar", weight="cart"))
    assert (row.tokens == x0).all()
    assert np.flatnonzero(row.flags & PREDICTED).tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert row.loss_weight[row.flags & PREDICTED != 0].tolist() == [1.0] * 7
    assert row.loss_weight.sum() == row.num_maskable == 7


def test_a_row_of_one_token_asks_nothing() -> None:
    _, _, row = row_of(8, [1], 7, 1.0, UNIFORM)
    assert row.num_maskable == 0 and not row.loss_weight.any() and not (row.tokens == MASK).any()
    assert np.flatnonzero(row.flags & SEGMENT_START).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("lengths", "dead"), [([5], 0), ([9], 0), ([8], 1), ([0, 8], 0), ([9], -1), ([], 0)]
)
def test_segments_that_do_not_fill_the_row_are_refused(lengths: list[int], dead: int) -> None:
    with pytest.raises(ValueError, match="do not make a row of 8"):
        segment_starts(lengths, 8, dead)


def test_unknown_objective_and_missing_noise_are_refused() -> None:
    with pytest.raises(ValueError, match="choose diffusion or ar"):
        Objective.of("masked")
    with pytest.raises(ValueError, match="needs u_S"):
        noise_row(np.arange(4), [4], UNIFORM)


def test_shift_keeps_types() -> None:
    is_start = np.array([True, False, True])
    for dtype in (np.int32, np.float32, np.bool_):
        assert shift_left(np.ones(3, dtype), is_start).dtype == dtype
