"""From measured times to the nodes at fault."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.cluster.check import _silent, judge
from megatron_dream.cluster.verdict import (
    compare_facts,
    judge_pairs,
    odd_results,
    pairings,
    slow_nodes,
    slow_ranks,
)

QUICK, SLOW = 1.0, 2.0


def names(count: int) -> list[str]:
    return [f"n{i}" for i in range(count)]


def ring(count: int, broken: set[str], value: float | None) -> dict[tuple[str, str], float | None]:
    """Times of all pairs where those with a broken node have ``value``."""
    pairs = itertools.chain(*pairings(names(count)))
    return {pair: value if broken & set(pair) else QUICK for pair in pairs}


@given(st.integers(2, 40))
def test_every_node_is_in_two_pairs_and_never_twice_in_a_round(count: int) -> None:
    rounds = pairings(names(count))
    assert len(rounds) == (1 if count == 2 else 2 + count % 2)
    for pairs in rounds:
        members = list(itertools.chain(*pairs))
        assert len(members) == len(set(members))
    met = list(itertools.chain(*itertools.chain(*rounds)))
    assert all(met.count(node) == (1 if count == 2 else 2) for node in names(count))


@given(st.integers(3, 40), st.data(), st.sampled_from([SLOW, None]))
def test_one_bad_node_is_named_and_nobody_else(
    count: int, data: st.DataObject, value: float | None
) -> None:
    bad = data.draw(st.sampled_from(names(count)))
    findings = judge_pairs(ring(count, {bad}, value), limit=1.3)
    assert [(finding.node, finding.is_fault) for finding in findings] == [(bad, True)]


def test_a_slow_cable_is_told_but_costs_no_node() -> None:
    times = ring(6, set(), None) | {("n2", "n3"): SLOW}
    (finding,) = judge_pairs(times, limit=1.3)
    assert not finding.is_fault and "between n2 and n3" in finding.text
    (broken,) = judge_pairs(times | {("n2", "n3"): None}, limit=1.3)
    assert not broken.is_fault and "fail between n2 and n3" in broken.text


def test_two_nodes_that_cannot_talk_are_both_named() -> None:
    assert {f.node for f in judge_pairs({("n0", "n1"): None}, 1.3)} == {"n0", "n1"}
    assert judge_pairs({("n0", "n1"): 5.0}, 1.3) == []  # nothing to compare it with


def test_a_slow_rank_is_named_with_its_node() -> None:
    seconds = dict.fromkeys(range(16), QUICK) | {11: SLOW}
    nodes = [f"n{rank // 8}" for rank in range(16)]
    (finding,) = slow_ranks(seconds, nodes, 1.3, "multiplies:")
    assert finding.node == "n1"
    assert finding.text == "rank 11 multiplies: takes 2e+03 ms, the median is 1e+03 (2.00 times)"
    assert slow_ranks(seconds, nodes, 2.5, "multiplies:") == []


def test_half_of_the_nodes_slow_is_not_usual() -> None:
    assert [f.node for f in slow_nodes({"a": QUICK, "b": SLOW}, 1.3, "sums")] == ["b"]


def test_another_result_is_a_fault() -> None:
    (finding,) = odd_results({0: "aa", 1: "aa", 2: "ab"}, ["n0", "n0", "n1"])
    assert (finding.node, finding.is_fault) == ("n1", True)
    assert odd_results({}, []) == []


FACTS = {"torch": "2.13.0", "driver": "570.1", "kernel": "6.1", "free disk": "1 GB"}


def test_a_node_with_another_program_is_at_fault() -> None:
    facts = {node: dict(FACTS) for node in names(3)}
    assert compare_facts(facts) == []
    facts["n1"] |= {"torch": "2.12.0", "free disk": "2 GB"}
    facts["n2"] |= {"driver": "560.9"}
    found = {(f.node, f.is_fault): str(f) for f in compare_facts(facts)}
    assert found == {
        ("n1", True): "n1: torch is 2.12.0, that of 2 nodes is 2.13.0",
        ("n2", False): "n2: driver is 560.9, that of 2 nodes is 570.1",
    }


def test_of_two_nodes_that_differ_neither_is_at_fault() -> None:
    facts = {"n0": FACTS, "n1": FACTS | {"torch": "2.12.0"}}
    (finding,) = compare_facts(facts)
    assert not finding.is_fault and "torch" in finding.text


def hellos(count: int) -> dict[int, dict[str, object]]:
    return {rank: {"node": f"n{rank}", "facts": FACTS} for rank in range(count)}


def test_a_rank_that_measures_nothing_and_one_that_fails() -> None:
    fine = {"product": QUICK, "digest": "aa", "pairs": {}, "errors": []}
    failed = {"product": None, "pairs": {}, "errors": ["matrix product: CUDA error: ECC"]}
    findings = judge(hellos(4), {0: fine, 1: fine, 2: failed}, 1.3)
    assert [str(f) for f in findings] == [
        "n3: rank 3 measured nothing in time",
        "n2: rank 2: matrix product: CUDA error: ECC",
    ]


@pytest.mark.parametrize("first", [None, SLOW])
def test_a_pair_is_as_slow_as_its_slowest_rank(first: float | None) -> None:
    def one(value: float | None) -> dict[str, object]:
        return {"product": QUICK, "digest": "a", "pairs": {"n0 n1": value}, "errors": []}

    quick = {
        "product": QUICK,
        "digest": "a",
        "pairs": {"n1 n2": QUICK, "n2 n0": QUICK},
        "errors": [],
    }
    (finding,) = judge(hellos(3), {0: one(first), 1: one(QUICK), 2: quick}, 1.3)
    assert "between n0 and n1" in finding.text


def test_silent_ranks_are_told_by_node_however_many_each_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_STEP_NODELIST", "gpu-a[01-02],login")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2),1")
    found = [str(one) for one in _silent(frozenset({5, 7, 8}))]
    assert found == ["gpu-a02: 2 ranks never answered", "login: 1 ranks never answered"]
