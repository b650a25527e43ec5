"""Scores: against enumeration, against known intervals, and what a lost judgement does to them."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.evaluation.harness.flops import Shape, forward_flops
from megatron_dream.evaluation.harness.scores import (
    area_under_accuracy,
    bootstrap,
    pass_at_k,
    score,
)


@given(
    st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
)
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(drawn):
    n, right, k = drawn
    draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_refuses_what_it_cannot_estimate():
    for n, right, k in ((1, 0, 2), (1, 2, 1), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, right, k)


def test_the_interval_is_that_of_a_proportion():
    estimate = bootstrap([1.0] * 82 + [0.0] * 82)
    error = 1.96 * math.sqrt(0.25 / 164)
    assert estimate.value == 0.5
    assert estimate.low == pytest.approx(0.5 - error, abs=0.01)
    assert estimate.high == pytest.approx(0.5 + error, abs=0.01)
    assert bootstrap([1.0] * 9).low == 1.0


def test_the_interval_is_of_tasks_not_of_samples():
    """Ten samples of each task are no more tasks: the interval is as wide as with one."""
    lines = [line(f"t{task}", task % 2 == 0) for task in range(40) for _ in range(10)]
    found = score(lines).pass_at[1]
    one = score([line(f"t{task}", task % 2 == 0) for task in range(40)]).pass_at[1]
    assert (found.low, found.high) == (one.low, one.high)


def line(task, passed, outcome=None, **more):
    outcome = outcome or ("passed" if passed else "failed")
    facts = {"num_tokens": 10, "num_forward": 4, "flops": 2.0, "seconds": 1.0, "opened": [0, 1]}
    return {"task_id": task, "passed": passed, "outcome": outcome, **facts, **more}


def test_lost_judgements_are_in_no_score():
    lines = [line("a", True), line("b", False), line("c", False, "infrastructure")]
    found = score(lines)
    assert (found.pass_at[1].value, found.num_tasks, found.num_lost) == (0.5, 2, 1)
    assert found.outcomes == {"passed": 1, "failed": 1, "infrastructure": 1}
    assert score([line("c", False, "infrastructure")]) is None


def test_figures_of_the_sampler():
    lines = [
        line("a", True, num_tokens=8, num_forward=2, opened=[0, 1, 2, 3]),
        line("b", True, num_tokens=4, num_forward=4, opened=[3, 2, 1, 0]),
    ]
    found = score(lines)
    assert found.tokens_per_pass == 2.0 and found.passes == 3.0
    assert found.local_ar_ness == 0.5  # one is left to right, the other never
    assert list(found.pass_at) == [1]


def test_pass_at_more_needs_as_many_samples_of_every_task():
    lines = [line("a", True) for _ in range(5)] + [line("b", False) for _ in range(4)]
    assert list(score(lines).pass_at) == [1]
    assert list(score([*lines, line("b", True)]).pass_at) == [1, 5]


def test_area_under_accuracy():
    assert area_under_accuracy([(1.0, 0.6), (2.0, 0.4)]) == pytest.approx(0.5)
    assert area_under_accuracy([(1, 0.8), (2, 0.8), (5, 0.0)]) == pytest.approx((0.8 + 1.2) / 4)
    assert area_under_accuracy([(2, 0.5), (1, 0.1), (1, 0.7)]) == pytest.approx(0.6)
    assert area_under_accuracy([(1.0, 0.6)]) is None


def test_flops_by_hand():
    """Two layers of 10 weights, hidden 4: 3 columns that see 5, and logits of one row."""
    shape = Shape(num_layers=2, hidden_size=4, layer_weights=10, vocab_size=7)
    assert forward_flops(shape, 3, 5, 1) == 2 * 2 * 10 * 3 + 4 * 2 * 4 * 5 * 3 + 2 * 4 * 7
