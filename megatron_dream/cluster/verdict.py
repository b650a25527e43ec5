"""From what was measured to the nodes at fault: pure functions.

Times are compared with their median. What is measured between nodes names no node at once: each node is
in two pairs or more (``pairings``), and its time is that of its best pair, so that a good node with a bad
neighbour is cleared by its other neighbour.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .facts import PACKAGES, Facts

# A node that differs here would run another program; elsewhere a difference is told and no more.
_SAME_PROGRAM = ("python", "commit", "NCCL", "GPUs", *PACKAGES)
_TOLD_ONLY = ("free disk", "present clock")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        node: by Slurm's name.
        text: the rest of the sentence.
        is_fault: the job should not run on this node.
    """

    node: str
    text: str
    is_fault: bool = True

    def __str__(self) -> str:
        return f"{self.node}: {self.text}"


def compare_facts(facts: Mapping[str, Facts]) -> list[Finding]:
    """Nodes that differ from most others, in what and from what."""
    findings = []
    for name in sorted({name for one in facts.values() for name in one}):
        if name in _TOLD_ONLY:
            continue
        values = {node: one.get(name, "unknown") for node, one in facts.items()}
        (common, count), *_ = Counter(values.values()).most_common()
        # Half and half tells which nodes differ, not which of them is wrong.
        is_fault = name in _SAME_PROGRAM and 2 * count > len(values)
        findings += [
            Finding(node, f"{name} is {value}, that of {count} nodes is {common}", is_fault)
            for node, value in values.items()
            if value != common
        ]
    return findings


def slow_ranks(
    seconds: Mapping[int, float], nodes: Sequence[str], limit: float, what: str
) -> list[Finding]:
    """Ranks whose time is over ``limit`` times the median of all, by node."""
    usual = _median(seconds.values())
    return [
        Finding(nodes[rank], f"rank {rank} {what} {_times(value, usual)}")
        for rank, value in sorted(seconds.items())
        if value > limit * usual
    ]


def slow_nodes(seconds: Mapping[str, float], limit: float, what: str) -> list[Finding]:
    """Nodes whose time is over ``limit`` times the median of all."""
    usual = _median(seconds.values())
    return [
        Finding(node, f"{what} {_times(value, usual)}")
        for node, value in seconds.items()
        if value > limit * usual
    ]


def odd_results(digests: Mapping[int, str], nodes: Sequence[str]) -> list[Finding]:
    """Ranks whose product of the same numbers is another than that of most."""
    if not digests:
        return []
    common = Counter(digests.values()).most_common(1)[0][0]
    return [
        Finding(nodes[rank], f"rank {rank} multiplies the same numbers to another result")
        for rank, digest in sorted(digests.items())
        if digest != common
    ]


def pairings(nodes: Sequence[str]) -> list[list[Pair]]:
    """Rounds of pairs that share no node: the neighbours of a ring, two rounds, or three if they are odd."""
    count = len(nodes)
    if count < 2:
        return []
    if count == 2:
        return [[(nodes[0], nodes[1])]]
    ring = [(nodes[i], nodes[(i + 1) % count]) for i in range(count)]
    even = count - count % 2
    rounds = [ring[0:even:2], ring[1:even:2]]
    return rounds if even == count else [*rounds, [ring[-1]]]


def judge_pairs(seconds: Mapping[Pair, float | None], limit: float) -> list[Finding]:
    """Nodes none of whose pairs is quick; pairs that are slow or broken although both nodes are not.

    Args:
        seconds: of an all-reduce over both nodes of a pair; None: it failed.
        limit: times the median of the nodes' best pairs.
    """
    best: dict[str, float | None] = {}
    for pair, value in seconds.items():
        for node in pair:
            known = best.get(node)
            best[node] = value if known is None else known if value is None else min(known, value)
    working = {node: value for node, value in best.items() if value is not None}
    usual = _median(working.values())
    what = "with each of its neighbours sums up"
    findings = [
        Finding(n, "sums up with no neighbour") for n, value in best.items() if value is None
    ]
    findings += slow_nodes(working, limit, what)
    named = {finding.node for finding in findings}
    for (first, second), value in seconds.items():
        if first in named or second in named:
            continue
        between = f"between {first} and {second} (a cable or a switch)"
        if value is None:
            findings.append(Finding(first, f"sums fail {between}", is_fault=False))
        elif value > limit * usual:
            text = f"sums {between} {_times(value, usual)}"
            findings.append(Finding(first, text, is_fault=False))
    return findings


def _median(values: object) -> float:
    """The lower one of two in the middle: half of the nodes slow must not look usual."""
    found = list(values)  # type: ignore[call-overload]
    return statistics.median_low(found) if found else 0.0


def _times(value: float, usual: float) -> str:
    return (
        f"takes {value * 1e3:.3g} ms, the median is {usual * 1e3:.3g} ({value / usual:.2f} times)"
    )
