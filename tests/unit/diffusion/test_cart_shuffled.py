"""CART's control: the same weights in a row on other masked tokens, the same masks and data as any weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.schema import DiffusionConfig
from megatron_dream.data.stream import Row, make_row
from megatron_dream.diffusion.noise import NoiseStream
from megatron_dream.diffusion.rows import PREDICTED, EndRun, Objective, noise_row
from megatron_dream.diffusion.weights import deal_weights, masked_weights

MASK = 999
WEIGHTS = ["inverse_t", "uniform", "linear", "cart", "cart_shuffled"]


def row_of(weight: str, ordinal: int = 5, length: int = 96, seed: int = 3, **more: object) -> Row:
    x0 = np.random.default_rng(ordinal).integers(1, 900, length)
    diffusion = DiffusionConfig(weight=weight, **more)  # type: ignore[arg-type]
    lengths = [length // 3, length - length // 3 - 7]
    return make_row(
        x0, lengths, 7, ordinal, noise=NoiseStream(seed), diffusion=diffusion, mask_id=MASK
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 99))
def test_dealing_keeps_the_weights_and_their_places(masked: list[bool], seed: int) -> None:
    is_masked = np.array(masked)
    weights = np.where(is_masked, np.arange(1.0, is_masked.size + 1), 0.0)
    dealt = deal_weights(weights, is_masked, np.random.default_rng(seed).random(is_masked.size))
    assert sorted(dealt) == sorted(weights)
    assert ((dealt > 0) == is_masked).all()


def test_every_permutation_is_as_likely() -> None:
    is_masked = np.array([True, False, True, True])
    weights, stream = np.array([1.0, 0.0, 2.0, 3.0]), NoiseStream(1)
    counts: dict[tuple[float, ...], int] = {}
    for n in range(3000):
        dealt = deal_weights(weights, is_masked, stream.weight_order(n, 4))
        counts[tuple(dealt)] = counts.get(tuple(dealt), 0) + 1
    assert len(counts) == 6 and min(counts.values()) > 420 and max(counts.values()) < 580


@pytest.mark.parametrize("complementary", [False, True])
def test_masks_and_data_are_those_of_every_weight(complementary: bool) -> None:
    for ordinal in range(6):
        rows = [row_of(w, ordinal, complementary=complementary) for w in WEIGHTS]
        for row in rows[1:]:
            for name in ("tokens", "labels", "flags"):
                assert np.array_equal(getattr(row, name), getattr(rows[0], name))
            assert (row.t, row.num_maskable) == (rows[0].t, rows[0].num_maskable)
        cart, shuffled = rows[3].loss_weight, rows[4].loss_weight
        assert np.array_equal(np.sort(cart), np.sort(shuffled))
        is_asked = rows[0].flags & PREDICTED != 0
        if is_asked.sum() > 8:
            assert not np.array_equal(cart, shuffled)
        assert not shuffled[~is_asked].any()


@pytest.mark.parametrize("as_one", [False, True])
@pytest.mark.parametrize("loss", ["all", "first", "mean"])
@pytest.mark.parametrize("start", [40, 63])
def test_a_row_weighs_the_same_however_its_end_pays(start: int, loss: str, as_one: bool) -> None:
    """PAD weighs little under CART; dealt before the rule of the end, its share would change."""
    stream, length = NoiseStream(0), 64
    end, is_maskable = EndRun(start, length, as_one, loss), np.arange(length) >= 10
    for n in range(20):
        rows = [
            noise_row(
                np.ones(length, dtype=np.int32), [length], Objective.of(weight=weight),
                u_S=stream.positions(n, length), t=stream.time(n), order_S=stream.weight_order(n, length),
                is_maskable_S=is_maskable, mask_token_id=MASK, end=end,
            )
            for weight in ("cart", "cart_shuffled")
        ]  # fmt: skip
        cart, dealt = (row.loss_weight for row in rows)
        assert np.array_equal(np.sort(cart), np.sort(dealt))
        if (cart > 0).sum() > 8:
            assert not np.array_equal(cart, dealt)


def test_a_row_is_a_function_of_seed_and_ordinal_alone() -> None:
    """Layouts differ in which rank makes which row; noise and dealing are keyed by the ordinal."""
    first = [row_of("cart_shuffled", n).loss_weight for n in (4, 5, 6)]
    again = [row_of("cart_shuffled", n).loss_weight for n in (6, 5, 4)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], row_of("cart_shuffled", 4, seed=4).loss_weight)


def test_dealing_does_not_follow_the_masks() -> None:
    """Were the masks' own numbers ranked, the smallest would always get the first token's weight."""
    stream, length = NoiseStream(0), 400
    for n in range(20):
        same = np.corrcoef(stream.positions(n, length), stream.weight_order(n, length))[0, 1]
        assert abs(same) < 0.25


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("denominator", ["masked_tokens", "maskable_tokens"])
def test_normalised_weights_have_mean_one_over_t(weight: str, denominator: str) -> None:
    objective = Objective.of(weight=weight, denominator=denominator)
    stream, length = NoiseStream(2), 1024
    total = count = 0.0
    for n in range(192):
        row = noise_row(
            np.ones(length, dtype=np.int32), [length], objective, mask_token_id=MASK,
            u_S=stream.positions(n, length), t=stream.time(n),
            order_S=stream.weight_order(n, length),
        )  # fmt: skip
        total += float(row.loss_weight.sum())
        masked = int((row.flags & PREDICTED != 0).sum())
        count += masked if denominator == "masked_tokens" else row.num_maskable
    assert total / count == pytest.approx(1.0, rel=0.03)


def test_without_an_order_it_is_refused() -> None:
    with pytest.raises(ValueError, match="order_S"):
        masked_weights("cart_shuffled", np.ones(3, dtype=bool), t=0.5)


def test_without_the_shift_a_token_pays_where_it_stands() -> None:
    rows = [row_of("cart", shift=shift) for shift in (True, False)]
    with_shift, without = rows
    assert np.array_equal(with_shift.tokens, without.tokens)
    is_masked = without.tokens == MASK
    assert np.array_equal(without.flags & PREDICTED != 0, is_masked)
    at = np.flatnonzero(is_masked)
    assert np.array_equal(with_shift.labels[at - 1], without.labels[at])
    assert np.array_equal(with_shift.loss_weight[at - 1], without.loss_weight[at])
    assert not without.loss_weight[~is_masked].any()
    real = slice(0, 96 - 7)
    kept = ~is_masked[real]
    assert np.array_equal(without.labels[real][kept], without.tokens[real][kept])
    with pytest.raises(ValueError, match="leave shift true"):
        Objective.of("ar", shift=False)
