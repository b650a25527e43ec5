"""Correlations, AR-ness and jumps against their definitions over every order of the ties."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.evaluation.order.measures import (
    chance_before,
    global_ar_ness,
    jumps,
    kendall,
    local_ar_ness,
    order_figures,
    spearman,
)

few_steps = st.lists(st.integers(0, 4), min_size=1, max_size=6)


def orders(steps: Sequence[int]) -> Iterator[list[int]]:
    """Every order of positions that the steps allow."""
    groups = [[i for i, s in enumerate(steps) if s == step] for step in sorted(set(steps))]
    for parts in itertools.product(*(list(itertools.permutations(group)) for group in groups)):
        yield [position for part in parts for position in part]


def local_of(order: Sequence[int], k: int) -> float:
    """DiffuCoder, one token a step."""
    spans = [order[t - k : t + 1] for t in range(k, len(order))]
    return statistics.mean(all(b == a + 1 for a, b in itertools.pairwise(span)) for span in spans)


def global_of(order: Sequence[int], k: int) -> float:
    masked, hits = sorted(order), 0
    for position in order:
        hits += position in masked[:k]
        masked.remove(position)
    return hits / len(order)


@given(few_steps, st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_ar_ness_is_the_mean_over_all_orders_of_ties(steps: list[int], k: int) -> None:
    found = statistics.mean(global_of(order, k) for order in orders(steps))
    assert global_ar_ness(steps, k) == pytest.approx(found)
    if len(steps) <= k:
        assert local_ar_ness(steps, k) is None
    else:
        found = statistics.mean(local_of(order, k) for order in orders(steps))
        assert local_ar_ness(steps, k) == pytest.approx(found)


def mean_ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [
        statistics.mean(i for i, other in enumerate(ordered) if other == value) for value in values
    ]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=12))
@settings(max_examples=100, deadline=None)
def test_correlations_take_ties_by_mean_rank(steps: list[int]) -> None:
    if len(set(steps)) == 1:
        assert spearman(steps) is None and kendall(steps) is None
        return
    ranks = mean_ranks(steps)
    assert spearman(steps) == pytest.approx(statistics.correlation(list(range(len(steps))), ranks))
    pairs = list(itertools.combinations(steps, 2))
    agree = sum((b > a) - (b < a) for a, b in pairs)
    untied = sum(a != b for a, b in pairs)
    assert kendall(steps) == pytest.approx(agree / math.sqrt(len(pairs) * untied))


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
@settings(max_examples=100, deadline=None)
def test_chance_before_counts_pairs(first: list[int], second: list[int]) -> None:
    pairs = [(a < b) + 0.5 * (a == b) for a in first for b in second]
    assert chance_before(first, second) == (
        pytest.approx(statistics.mean(pairs)) if pairs else None
    )


def test_jumps() -> None:
    assert jumps([0, 1, 2, 3]) == [1, 1, 1]
    assert jumps([3, 2, 1, 0]) == [-1, -1, -1]
    assert jumps([0, 0, 0, 1, 1]) == [1, 1, 1, 1]  # three at once, then two
    # positions 4, 0, then 2 and 3: 0 comes from 4; 2 from 0; 3 from 2 of its own step
    assert jumps([1, 9, 2, 2, 0][:1] + [2, 2, 0]) == [-3, 1, 1]
    assert jumps([5, 0, 7]) == [-1, 2]
    assert jumps([1, 0, 2, 0]) == [2, -1, 2]  # 1, then 3 of its step; 0; 2: two from 0, left first
    assert jumps([4]) == []


def test_the_figures_of_known_orders() -> None:
    count = 32
    right = order_figures(list(range(count)))
    assert right.spearman == right.kendall == pytest.approx(1.0)
    assert set(right.local_ar_ness.values()) == set(right.global_ar_ness.values()) == {1.0}
    assert (right.next_share, right.back_share, right.far_share) == (1.0, 0.0, 0.0)
    left = order_figures(list(range(count))[::-1])
    assert left.kendall == pytest.approx(-1.0) and left.back_share == 1.0
    assert set(left.local_ar_ness.values()) == {0.0}
    assert left.global_ar_ness == pytest.approx({1: 1 / 32, 2: 2 / 32, 4: 4 / 32, 8: 8 / 32})
    at_once = order_figures([0] * count)
    assert at_once.kendall is None and at_once.spearman is None
    assert at_once.local_ar_ness[1] == pytest.approx(1 / count)  # as a random order
    assert at_once.global_ar_ness[1] == pytest.approx(sum(1 / n for n in range(1, 33)) / 32)
    assert at_once.num_steps == 1
    none = order_figures([])
    assert none.num_tokens == 0 and none.global_ar_ness[1] is None and none.far_share is None
