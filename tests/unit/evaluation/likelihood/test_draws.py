"""Which tokens are masked and with what weight: by counting, and against the sums they estimate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from megatron_dream.evaluation.likelihood.draws import (
    KINDS,
    T_MIN,
    every_mask,
    plan_masks,
)

DRAWN = [kind for kind in KINDS if kind != "all"]


def values(length: int, seed: int = 0) -> np.ndarray:
    """A cross-entropy for each masked token of every set of masks."""
    masks = every_mask(length)
    return np.random.default_rng(seed).uniform(0.5, 4.0, masks.shape) * masks


def true_sum(table: np.ndarray) -> float:
    """Sum over l of the mean over sets of l masks of their cross-entropies' sum, over l."""
    counts = every_mask(table.shape[1]).sum(1)
    return sum(table[counts == n].sum(1).mean() / n for n in range(1, table.shape[1] + 1))


def estimate(table: np.ndarray, draws: str, mc_num: int, seed: int) -> float:
    plan = plan_masks(draws, table.shape[1], mc_num, seed)
    bits = (plan.masks_ML * (1 << np.arange(table.shape[1]))).sum(1)
    return float((plan.weights_M * table[bits - 1].sum(1)).sum())


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_all_sets_give_the_sum_itself(length: int) -> None:
    table = values(length)
    assert estimate(table, "all", 1, 0) == pytest.approx(true_sum(table), rel=1e-12)


@pytest.mark.parametrize("draws", DRAWN)
def test_a_mean_of_many_estimates_is_the_sum(draws: str) -> None:
    """Within 4 standard errors and what T_MIN may cost: its share of the range of the integrand."""
    table = values(5)
    found = np.array([estimate(table, draws, 16, seed) for seed in range(600)])
    error = 4 * found.std(ddof=1) / math.sqrt(len(found))
    slack = 0.0 if draws == "count" else 2 * T_MIN * 5 * 4.0
    assert abs(found.mean() - true_sum(table)) < error + slack
    assert error < 0.06 * true_sum(table)  # or the line above would say nothing


def test_the_kinds_differ_in_variance() -> None:
    table = values(6)
    deviation = {
        draws: np.std([estimate(table, draws, 16, seed) for seed in range(300)]) for draws in DRAWN
    }
    assert deviation["stratified"] < 0.97 * deviation["plain"]
    assert deviation["complementary"] < 0.97 * deviation["plain"]
    assert deviation["count"] < 0.5 * deviation["plain"]


def test_times_and_counts_are_stratified() -> None:
    """A stratum each: the weights tell t and l."""
    count = plan_masks("count", 4, 16, seed=3)
    per_size = {n: 0.0 for n in range(1, 5)}
    for mask, weight in zip(count.masks_ML, count.weights_M, strict=True):
        per_size[int(mask.sum())] += weight
    assert per_size == pytest.approx({n: 1 / n for n in range(1, 5)})  # 4 of 16 draws each
    long = plan_masks("stratified", 400, 8, seed=1)  # so long that no set is empty and none repeats
    times = np.sort(1 / (8 * long.weights_M))
    assert [int((t - T_MIN) / (1 - T_MIN) * 8) for t in times] == list(range(8))


def test_a_pair_masks_every_token_once() -> None:
    plan = plan_masks("complementary", 60, 8, seed=5)
    times = 1 / (8 * plan.weights_M)
    seen = 0
    for one, other in itertools.combinations(range(len(times)), 2):
        if math.isclose(times[one] + times[other], 1.0):
            assert (plan.masks_ML[one] ^ plan.masks_ML[other]).all()
            seen += 1
    assert seen == 4


@pytest.mark.parametrize("draws", DRAWN)
def test_a_longer_choice_has_the_shorter_ones_numbers(draws: str) -> None:
    """Common random numbers: where times do not depend on the length, neither do the masks."""
    short, long = (plan_masks(draws, n, 4, seed=7, question=2) for n in (40, 50))
    other = plan_masks(draws, 40, 4, seed=7, question=3)
    shared = {mask[:40].tobytes() for mask in long.masks_ML}
    if draws == "count":  # of 5 in 4 as many masks: those of the shorter are among them, or nearly
        overlap = max((a & b[:40]).sum() / a.sum() for a in short.masks_ML for b in long.masks_ML)
        assert overlap > 0.9
    else:
        assert {mask.tobytes() for mask in short.masks_ML} == shared
        assert {mask.tobytes() for mask in other.masks_ML} != shared
    assert short.masks_ML.tobytes() != other.masks_ML.tobytes()


def test_sets_that_repeat_are_one_row() -> None:
    plan = plan_masks("stratified", 1, 128, seed=0)
    assert plan.masks_ML.tolist() == [[True]]
    assert plan_masks("count", 1, 128, seed=0).weights_M == pytest.approx([1.0])
    assert len(plan_masks("stratified", 2, 128, seed=0).masks_ML) == 3


@pytest.mark.parametrize(
    ("draws", "mc_num", "length", "words"),
    [
        ("sorted", 8, 3, "draws is 'sorted'"),
        ("plain", 0, 3, "mc_num is 0"),
        ("complementary", 7, 3, "come in pairs"),
        ("all", 8, 17, "at most 16"),
    ],
)
def test_what_cannot_be_is_refused(draws: str, mc_num: int, length: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_masks(draws, length, mc_num, seed=0)
