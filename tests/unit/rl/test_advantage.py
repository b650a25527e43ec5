"""Advantages and substitution against plain arithmetic."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.rl.advantage import advantages, substitutes


@given(st.lists(st.floats(-10, 10), max_size=20))
def test_advantages_are_the_definition(rewards: list[float]) -> None:
    found = advantages(rewards)
    if len(rewards) < 2 or statistics.stdev(rewards) < 1e-6:
        assert found is None
        return
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    wanted = [(reward - mean) / (deviation + 1e-6) for reward in rewards]
    assert found is not None
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rewards", [[], [1.0], [1.0, 1.0, 1.0], [0.0] * 16])
def test_groups_that_teach_nothing(rewards: list[float]) -> None:
    assert advantages(rewards) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rewards_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        advantages([1.0, bad, 0.0])


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 99))
def test_uninformative_groups_become_copies_of_informative_ones(
    informative: list[bool], seed: int
) -> None:
    found = substitutes(informative, np.random.default_rng(seed))
    if not any(informative):
        assert found is None
        return
    assert found is not None and len(found) == len(informative)
    for number, (taken, good) in enumerate(zip(found, informative, strict=True)):
        assert taken == number if good else informative[taken]


def test_copies_are_spread_evenly() -> None:
    informative = [True, True, False, True] + [False] * 3000
    found = substitutes(informative, np.random.default_rng(0))
    assert found is not None
    counts = np.bincount(found[4:], minlength=4)
    assert counts[2] == 0 and (counts[[0, 1, 3]] > 900).all()
