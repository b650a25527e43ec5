"""The policy objective against definitions in plain loops and autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.diffusion.noise import NoiseStream
from megatron_dream.rl.objective import (
    Half,
    aggregated,
    coupled_halves,
    policy_loss,
    sequence_log_ratio,
    token_weights,
    trace_half,
)

NOISE = NoiseStream(3, "rl")


@given(st.integers(0, 10**6), st.integers(0, 300))
def test_each_token_is_masked_in_exactly_one_half(ordinal: int, length: int) -> None:
    first, second = coupled_halves(NOISE, ordinal, length)
    assert (first.masked_L ^ second.masked_L).all() and first.masked_L.size == length
    assert math.isclose(first.t + second.t, 1.0) and 0.1 <= first.t <= 0.9
    assert (first.masked_L == first.loss_L).all() and (second.masked_L == second.loss_L).all()


def test_times_are_uniform_and_masks_follow_them() -> None:
    halves = [coupled_halves(NOISE, n, 200, (0.0, 1.0))[0] for n in range(2000)]
    times = np.array([half.t for half in halves])
    shares = np.array([half.masked_L.mean() for half in halves])
    assert abs(times.mean() - 0.5) < 0.03 and abs(times.std() - 12**-0.5) < 0.02
    assert abs((shares - times).mean()) < 0.005
    assert len({half.masked_L.tobytes() for half in halves}) > 1900  # fresh ones for each


@pytest.mark.parametrize("t_range", [(0.5, 0.1), (-0.1, 0.5), (0.1, 1.1)])
def test_an_impossible_range_is_refused(t_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="t_range"):
        coupled_halves(NOISE, 0, 4, t_range)


def test_trace_masks_what_was_not_open_yet() -> None:
    opened = np.array([2, 0, 1, 3, 1, 5])
    half = trace_half(opened, 1, 2)
    assert half.masked_L.tolist() == [True, False, True, True, True, True]
    assert half.loss_L.tolist() == [True, False, True, False, True, False]


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0.05, 1.0))
def test_cart_weights_are_the_sum_over_the_responses_context(masked: list[bool], p: float) -> None:
    mask = np.array(masked)
    found = token_weights(Half(0.5, mask, mask), "cart", p)
    for n, is_masked in enumerate(masked):
        near = [abs(n - m) for m, hidden in enumerate(masked) if is_masked and not hidden]
        wanted = sum(0.5 * p * (1 - p) ** (distance - 1) for distance in near)
        assert math.isclose(found[n], wanted, rel_tol=1e-6, abs_tol=1e-12)


def test_inverse_time_weighs_the_tokens_with_loss_alone() -> None:
    half = trace_half(np.array([0, 1, 2]), 1, 1)
    assert token_weights(half, "inverse_t").tolist() == [0.0, 1 / half.t, 0.0]


TOKENS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 1),
        st.integers(0, 2),
        st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(TOKENS, st.sampled_from(["per_group_mask", "token_mean", "sequence_mean"]))
def test_aggregations_are_their_definitions(
    tokens: list[tuple[int, int, int, float]], kind: str
) -> None:
    losses = np.random.default_rng(len(tokens)).normal(size=len(tokens))
    group, half, member, weight = (np.array(column) for column in zip(*tokens, strict=True)) if tokens else (
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0),
    )  # fmt: skip
    sequence = group * 3 + member
    found = float((aggregated(weight.astype(float), group, half, sequence, kind) * losses).sum())
    parts: dict[object, list[tuple[float, float]]] = {}
    for n, (g, h, m, w) in enumerate(tokens):
        key = {"per_group_mask": (g, h), "token_mean": 0, "sequence_mean": (g, m)}[kind]
        parts.setdefault(key, []).append((w, losses[n]))
    means = []
    for members in parts.values():
        if kind == "sequence_mean":
            count = sum(w > 0 for w, _ in members)
            if count:
                means.append(sum(w * loss for w, loss in members) / count)
        elif total := sum(w for w, _ in members):
            means.append(sum(w * loss for w, loss in members) / total)
    assert math.isclose(found, sum(means) / len(means) if means else 0.0, abs_tol=1e-9)


def test_an_unknown_aggregation_is_refused() -> None:
    one = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="per_group_mask"):
        aggregated(np.ones(1), one, one, one, "mean")  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-3, 3)), min_size=1, max_size=20))
def test_the_clipped_loss_and_its_slope(pairs: list[tuple[float, float]]) -> None:
    log_ratio = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([pair[1] for pair in pairs], dtype=torch.float64)
    found = policy_loss(log_ratio, advantage)
    for n, (x, a) in enumerate(pairs):
        r = math.exp(x)
        wanted = max(-a * r, -a * min(max(r, 0.8), 1.28))
        assert math.isclose(found.loss_N[n].item(), wanted, rel_tol=1e-6, abs_tol=1e-12)
        assert found.clipped_high_N[n].item() == (r > 1.28 and a > 0)
        assert found.clipped_low_N[n].item() == (r < 0.8 and a < 0)
    (slope,) = torch.autograd.grad(found.loss_N.sum(), log_ratio)
    torch.testing.assert_close(slope, found.slope_N.detach(), rtol=1e-9, atol=1e-12)


def test_the_first_update_is_the_plain_policy_gradient() -> None:
    advantage = torch.tensor([1.5, -0.5])
    found = policy_loss(torch.zeros(2), advantage)
    assert torch.equal(found.slope_N, -advantage) and not found.clipped_high_N.any()


def test_a_sequences_ratio_sums_both_halves_over_its_length() -> None:
    log_ratio = torch.tensor([0.1, 0.2, -0.4, 0.5])
    sequence = torch.tensor([0, 1, 0, 1])
    length = torch.tensor([3.0, 2.0, 3.0, 2.0])
    found = sequence_log_ratio(log_ratio, sequence, length, 2)
    torch.testing.assert_close(found, torch.tensor([-0.1, 0.35, -0.1, 0.35]))
