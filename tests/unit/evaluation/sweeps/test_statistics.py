"""Means and paired differences: against scipy, against coverage, and where there is too little to say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from megatron_dream.evaluation.harness.scores import Estimate
from megatron_dream.evaluation.sweeps.statistics import (
    estimate_columns,
    mean_over_seeds,
    paired_difference,
    shows_difference,
)

FINITE = st.integers(-10_000, 10_000).map(lambda n: n / 16)


@given(st.lists(FINITE, min_size=2, max_size=12, unique=True))
def test_the_interval_of_a_mean_is_students(values):
    found = mean_over_seeds(values)
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    assert (found.value, found.low, found.high) == pytest.approx(
        (np.mean(values), low, high), rel=1e-9, abs=1e-9
    )


@given(st.dictionaries(st.integers(0, 9), st.tuples(FINITE, FINITE), min_size=2))
def test_few_pairs_are_students_paired_test(pairs):
    a = {key: pair[0] for key, pair in pairs.items()}
    b = {key: pair[1] for key, pair in pairs.items()}
    found = paired_difference(a, b)
    differences = np.array([a[key] - b[key] for key in a])
    if np.ptp(differences) < 1e-6:
        return
    test = stats.ttest_rel(list(a.values()), list(b.values()))
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    if abs(test.pvalue - 0.05) > 1e-6:
        assert shows_difference(found) == (test.pvalue < 0.05)


def test_what_pairs_share_falls_out():
    hardness = {task: 10.0 * task for task in range(40)}
    a = {task: value + 1.0 + 0.1 * (task % 3) for task, value in hardness.items()}
    found = paired_difference(a, hardness)
    assert 1.05 < found.low < found.value < found.high < 1.15
    apart = mean_over_seeds(list(a.values())), mean_over_seeds(list(hardness.values()))
    assert apart[0].low < apart[1].high  # without pairing nothing would be seen


def test_many_pairs_are_resampled():
    rng = np.random.default_rng(3)
    a = dict(enumerate((rng.random(200) < 0.6).astype(float)))
    b = dict(enumerate((rng.random(200) < 0.4).astype(float)))
    found = paired_difference(a, b)
    differences = [a[key] - b[key] for key in a]
    reference = stats.bootstrap(
        (differences,), np.mean, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.02)
    assert shows_difference(found)


def test_an_interval_of_five_seeds_covers_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(1.0, 2.0, size=(2000, 5))
    covered = [e.low <= 1.0 <= e.high for e in map(mean_over_seeds, draws.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_only_common_keys_are_paired():
    found = paired_difference({1: 3.0, 2: 5.0, 4: 99.0}, {1: 1.0, 2: 4.0, 3: -99.0})
    assert found.value == 1.5


def test_one_value_has_no_interval_and_shows_nothing():
    one = mean_over_seeds([0.4])
    assert (one.value, one.low, one.high) == (0.4, -math.inf, math.inf)
    assert not shows_difference(paired_difference({7: 5.0}, {7: 1.0}))
    assert estimate_columns("gain", one) == {"gain": 0.4, "gain_low": None, "gain_high": None}


def test_columns_of_an_estimate():
    columns = estimate_columns("gain", Estimate(1.0, 0.5, 1.5))
    assert columns == {"gain": 1.0, "gain_low": 0.5, "gain_high": 1.5}
    assert set(estimate_columns("gain", None).values()) == {None}


@pytest.mark.parametrize("count", [2, 30])
def test_what_is_not_finite_is_refused(count):
    a = dict.fromkeys(range(count), 1.0) | {0: math.nan}
    with pytest.raises(ValueError, match="not finite"):
        paired_difference(a, dict.fromkeys(range(count), 1.0))


def test_nothing_in_common_is_refused():
    with pytest.raises(ValueError, match="no value"):
        paired_difference({1: 1.0}, {2: 1.0})
