"""CART against the dense matrix of its definition, and the weights' means over t."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.diffusion.noise import NoiseStream
from megatron_dream.diffusion.weights import (
    cart_sums,
    cart_weights,
    masked_weights,
    time_weight,
    weight_normalizer,
)


def dense_cart(
    is_masked: np.ndarray, is_attended: np.ndarray, is_start: np.ndarray, p: float
) -> np.ndarray:
    """The definition: sum over context m of n's segment of 1/2 p (1 - p)^(|n - m| - 1)."""
    length = is_masked.size
    distance = np.abs(np.arange(length)[:, None] - np.arange(length)[None, :])
    by_distance = np.append(0.0, 0.5 * p * (1.0 - p) ** np.arange(length, dtype=np.float64))
    kernel = by_distance[distance]
    segment = np.cumsum(is_start)
    kernel *= segment[:, None] == segment[None, :]
    return is_masked * (kernel @ (~is_masked & is_attended))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("starts", ["one", "documents", "everywhere"])
def test_equals_the_dense_product_at_4096(p: float, starts: str) -> None:
    length, rng = 4096, np.random.default_rng(0)
    share = {"one": 0.0, "documents": 0.01, "everywhere": 0.9}[starts]
    is_start = rng.random(length) < share
    is_start[0] = True
    is_masked = rng.random(length) < 0.5
    is_attended = np.arange(length) < 4000
    found = cart_weights(is_masked & is_attended, is_attended, is_start, p=p)
    expected = dense_cart(is_masked & is_attended, is_attended, is_start, p)
    assert np.abs(found - expected).max() < 1e-12  # the requirement is 1e-6
    assert found[is_masked & is_attended].max() > 0.0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_dense_product_on_any_row(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 40))
    bools = st.lists(st.booleans(), min_size=length, max_size=length).map(np.array)
    is_masked, is_attended, is_start = data.draw(bools), data.draw(bools), data.draw(bools)
    p = data.draw(st.floats(1e-6, 1.0))
    found = cart_weights(is_masked, is_attended, is_start, p=p)
    np.testing.assert_allclose(found, dense_cart(is_masked, is_attended, is_start, p), atol=1e-12)


def test_batches_equal_their_rows() -> None:
    rng = np.random.default_rng(1)
    is_masked, is_start = rng.random((5, 300)) < 0.5, rng.random((5, 300)) < 0.02
    for starts in (None, is_start):
        batch = cart_weights(is_masked, None, starts, p=0.1)
        for row in range(5):
            own = None if starts is None else starts[row]
            assert (batch[row] == cart_weights(is_masked[row], None, own, p=0.1)).all()


def test_a_long_row_of_small_p_does_not_overflow() -> None:
    is_masked = np.ones(100_000, dtype=bool)
    is_masked[0] = False
    weights = cart_weights(is_masked, p=0.5)
    assert np.isfinite(weights).all() and weights[1] == 0.25 and weights[-1] < 1e-300


@pytest.mark.parametrize("weight", ["inverse_t", "linear", "uniform", "cart"])
def test_normaliser_is_the_mean_over_t(weight: str) -> None:
    length, stream = 2048, NoiseStream(2)
    total = masked = maskable = 0.0
    for n in range(320):
        t = stream.time(n)
        is_masked = stream.positions(n, length) < t
        total += masked_weights(weight, is_masked, t=t).sum()
        masked += is_masked.sum()
        maskable += length
    # "about": at the edges of a row CART has half the context
    tolerance = 0.02 if weight == "cart" else 0.01
    assert total / masked == pytest.approx(weight_normalizer(weight), rel=tolerance)
    expected = weight_normalizer(weight, "maskable_tokens")
    assert total / maskable == pytest.approx(expected, rel=tolerance)


def test_normalisers_are_those_of_the_specification() -> None:
    names = ["inverse_t", "linear", "uniform", "cart", "cart_shuffled"]
    assert [weight_normalizer(n) for n in names] == [2.0, 1 / 3, 1.0, 1 / 3, 1 / 3]
    expected = [1.0, 1 / 6, 0.5, 1 / 6, 1 / 6]
    assert [weight_normalizer(n, "maskable_tokens") for n in names] == expected


def test_cart_at_small_p_is_close_to_one_minus_t() -> None:
    rng = np.random.default_rng(3)
    is_masked = rng.random(20_000) < 0.7
    weights = cart_weights(is_masked, p=0.1)[100:-100]
    inside = weights[is_masked[100:-100]]
    assert abs(inside.mean() - 0.3) < 0.01 and inside.std() < 0.1


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="choose from"):
        weight_normalizer("cosine")
    with pytest.raises(ValueError, match="masked_tokens or maskable_tokens"):
        weight_normalizer("cart", "tokens")
    for p in (0.0, 1.1, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must lie in"):
            cart_sums(np.ones(3, dtype=bool), p=p)
    with pytest.raises(ValueError, match="must agree"):
        cart_sums(np.ones(3, dtype=bool), np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="cart_weights"):
        time_weight("cart", 0.5)
    assert time_weight("inverse_t", 1e-9, 1e-3) == 1000.0
