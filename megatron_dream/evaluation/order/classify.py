"""Sketch-first, left-to-right or interleaved: by four figures and stated thresholds (docs/order.md)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .measures import chance_before, kendall
from .structure import NO_SEGMENT, Layout

Label = Literal["left-to-right", "sketch-first", "interleaved"]
LABELS: tuple[Label, ...] = ("left-to-right", "sketch-first", "interleaved")

FEWEST_TOKENS = 8
SKETCH_STRUCTURE_FIRST = 0.70
SKETCH_DEVIATIONS = 3.0  # of random order, that structure is early at least
SKETCH_COVERAGE = 0.60
SKETCH_KENDALL = 0.90  # at most: structure that comes first in the text opens first in reading too
LEFT_TO_RIGHT_KENDALL = 0.75
LEFT_TO_RIGHT_DISORDER = 0.20
SKETCH_SHARE = (0.1, 0.5)  # of the tokens, whatever the share of structure


@dataclass(frozen=True)
class Evidence:
    """What the label rests on.

    Attributes:
        label: None: too few tokens, or all open at once.
        structure_first: A, chance that structure opens before another token.
        deviations: of A from 1/2, in standard deviations of random order.
        disorder: D, of segments that follow each other.
        coverage: C, share of segments that the first openings reach.
        num_segments: of the text.
    """

    label: Label | None
    structure_first: float
    deviations: float
    disorder: float
    coverage: float
    num_segments: int


def classify(steps: Sequence[int], layout: Layout) -> Evidence:
    """The label of one sample.

    Args:
        steps: of each token of the text.
        layout: of the same tokens.

    Raises:
        ValueError: they are of different texts.
    """
    if not len(steps) == len(layout.kinds) == len(layout.segments):
        raise ValueError(
            f"{len(steps)} steps and a layout of {len(layout.kinds)} tokens: give those of one text."
        )
    step_n, segment_n = np.asarray(steps), np.asarray(layout.segments)
    is_structure_n = np.array([kind == "structure" for kind in layout.kinds], dtype=bool)
    is_other_n = np.array([kind == "other" for kind in layout.kinds], dtype=bool)
    first = chance_before(step_n[is_structure_n], step_n[is_other_n])
    members = [step_n[segment_n == n] for n in range(int(segment_n.max(initial=NO_SEGMENT)) + 1)]
    behind = [chance_before(late, early) for early, late in itertools.pairwise(members)]
    structure_first = 0.5 if first is None else first
    evidence = Evidence(
        label=None,
        structure_first=structure_first,
        deviations=_deviations(structure_first, int(is_structure_n.sum()), int(is_other_n.sum())),
        disorder=float(np.mean([one for one in behind if one is not None])) if behind else 0.0,
        coverage=_coverage(step_n, segment_n, is_structure_n),
        num_segments=len(members),
    )
    tau = kendall(steps)
    if len(steps) < FEWEST_TOKENS or tau is None:
        return evidence
    return dataclasses.replace(evidence, label=_label(tau, evidence))


def _label(tau: float, evidence: Evidence) -> Label:
    is_early = (
        evidence.structure_first >= SKETCH_STRUCTURE_FIRST
        and evidence.deviations >= SKETCH_DEVIATIONS
    )
    if is_early and evidence.coverage >= SKETCH_COVERAGE and tau <= SKETCH_KENDALL:
        return "sketch-first"
    if tau >= LEFT_TO_RIGHT_KENDALL and evidence.disorder <= LEFT_TO_RIGHT_DISORDER:
        return "left-to-right"
    return "interleaved"


def _deviations(structure_first: float, structure: int, others: int) -> float:
    """By the null of the Mann-Whitney statistic, without ties, which make it smaller."""
    if not structure or not others:
        return 0.0
    deviation = math.sqrt((structure + others + 1) / (12 * structure * others))
    return (structure_first - 0.5) / deviation


def _coverage(step_n: np.ndarray, segment_n: np.ndarray, is_structure_n: np.ndarray) -> float:
    """Share of segments with a token among the first openings; those tied with the last count too."""
    visible_n = segment_n != NO_SEGMENT
    if not visible_n.any():
        return 0.0
    low, high = SKETCH_SHARE
    share = min(high, max(low, float(is_structure_n[visible_n].mean())))
    count = max(1, math.ceil(share * int(visible_n.sum()) - 1e-9))
    latest = np.sort(step_n[visible_n])[count - 1]
    reached = np.unique(segment_n[visible_n & (step_n <= latest)])
    return len(reached) / len(np.unique(segment_n[visible_n]))
