"""How much like reading an order of generation is: correlations, AR-ness, jumps. Pure functions of steps.

``steps`` is what opened when: one number a token of the text, in order of position. Tokens of one step are
tied, and what would depend on an order among them is its mean over all orders of the tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
SPANS = (1, 2, 4, 8)  # k of the AR-ness that is reported
FAR = 8  # a longer jump is far


def spearman(steps: Sequence[int]) -> float | None:
    """Of position and step, ties by mean rank; None where all tokens open at once."""
    from scipy.stats import rankdata

    ranks = rankdata(steps)
    if len(ranks) < 2 or np.ptp(ranks) == 0:
        return None
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1])


def kendall(steps: Sequence[int]) -> float | None:
    """tau-b of position and step; None where all tokens open at once."""
    from scipy.stats import kendalltau

    if len(steps) < 2 or min(steps) == max(steps):
        return None
    return float(kendalltau(np.arange(len(steps)), steps).statistic)


def local_ar_ness(steps: Sequence[int], span: int = 1) -> float | None:
    """Share of k + 1 openings one after the other that are neighbours from left to right (DiffuCoder).

    Args:
        steps: of each token.
        span: k; 1: a token follows the one before it.

    Returns:
        The mean over all orders of ties; None where there are at most k tokens.
    """
    if len(steps) <= span:
        return None
    values, rank_n, size_S = np.unique(steps, return_inverse=True, return_counts=True)
    windows = np.lib.stride_tricks.sliding_window_view(rank_n.reshape(-1), span + 1)
    # openings that follow each other are of the same step or of the next that opened anything
    rises_WK = np.diff(windows, axis=1)
    possible = windows[((rises_WK == 0) | (rises_WK == 1)).all(axis=1)]
    chances = [_chance(window, size_S) for window in possible]
    return math.fsum(chances) / (len(steps) - span)


def _chance(window: Integers, size_S: Integers) -> float:
    """That neighbours of these steps open one right after the other, over the orders of the ties."""
    groups, counts = np.unique(window, return_counts=True)
    if len(groups) == 1:
        size, count = int(size_S[groups[0]]), int(counts[0])
        return math.factorial(size - count + 1) / math.factorial(size)
    chance = 1.0
    for place, (group, count) in enumerate(zip(groups.tolist(), counts.tolist(), strict=True)):
        size = int(size_S[group])
        if 0 < place < len(groups) - 1 and count < size:
            return 0.0  # others of the step stand between
        # these are the last of their step, or the first, or all of it
        chance *= 1.0 / math.perm(size, count)
    return chance


def global_ar_ness(steps: Sequence[int], span: int = 1) -> float | None:
    """Share of openings that take one of the first k tokens still masked (DiffuCoder).

    Args:
        steps: of each token.
        span: k.

    Returns:
        The mean over all orders of ties; None where there is no token.
    """
    if not len(steps):
        return None
    step_n = np.asarray(steps)
    later_n = np.array([(step_n[:i] > step_n[i]).sum() for i in range(len(step_n))])
    tied_n = np.array([(step_n[:i] == step_n[i]).sum() for i in range(len(step_n))])
    # of the tied ones on the left 0, 1, ... or all are still masked, each as likely
    chance_n = np.clip(span - later_n, 0, tied_n + 1) / (tied_n + 1)
    return float(chance_n.mean())


def jumps(steps: Sequence[int]) -> list[int]:
    """Signed distance of each opening from the nearest token of the step before, or left of it in its own.

    Returns:
        In order of step and position; the very first token has none. Of two as near the left one counts.
    """
    step_n = np.asarray(steps)
    found: list[int] = []
    before = np.zeros(0, dtype=np.int64)
    for step in np.unique(step_n):
        here = (step_n == step).nonzero()[0]
        for place, position in enumerate(here.tolist()):
            sources = np.concatenate([before, here[:place]])
            if len(sources):
                # left ones first among equals: their distance is positive
                distances = position - sources
                found.append(int(min(distances.tolist(), key=lambda d: (abs(d), d < 0))))
        before = here
    return found


def chance_before(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Chance that a step of ``first`` is smaller than one of ``second``, ties half; None: one is empty."""
    if not len(first) or not len(second):
        return None
    ordered = np.sort(np.asarray(second))
    wins = len(ordered) - np.searchsorted(ordered, first, side="right")
    ties = len(ordered) - np.searchsorted(ordered, first, side="left") - wins
    return float((wins + ties / 2).mean() / len(ordered))


@dataclass(frozen=True)
class OrderFigures:
    """What ``steps`` alone say. None: not defined for so few tokens, or where all open at once.

    Attributes:
        num_tokens: n.
        num_steps: that opened one of them.
        spearman: see ``spearman``.
        kendall: see ``kendall``.
        local_ar_ness: by k.
        global_ar_ness: by k.
        next_share: jumps of +1, of all jumps.
        back_share: of negative ones.
        far_share: of those longer than ``FAR``.
    """

    num_tokens: int
    num_steps: int
    spearman: float | None
    kendall: float | None
    local_ar_ness: dict[int, float | None]
    global_ar_ness: dict[int, float | None]
    next_share: float | None
    back_share: float | None
    far_share: float | None


def order_figures(steps: Sequence[int], spans: Sequence[int] = SPANS) -> OrderFigures:
    """All measures of one text's steps."""
    leaps = np.array(jumps(steps))

    def share(mask: NDArray[np.bool_]) -> float | None:
        return float(mask.mean()) if len(leaps) else None

    return OrderFigures(
        num_tokens=len(steps),
        num_steps=len(set(steps)),
        spearman=spearman(steps),
        kendall=kendall(steps),
        local_ar_ness={k: local_ar_ness(steps, k) for k in spans},
        global_ar_ness={k: global_ar_ness(steps, k) for k in spans},
        next_share=share(leaps == 1),
        back_share=share(leaps < 0),
        far_share=share(np.abs(leaps) > FAR),
    )
