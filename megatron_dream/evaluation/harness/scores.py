"""What a set of judged samples comes to.

pass@k of a task with n samples, c of them right, is 1 - C(n - c, k) / C(n, k) (HumanEval's unbiased
estimator), averaged over tasks. Intervals are of 95%, from resampling tasks: the tasks are the sample of
what the score is meant to say something about, and answers to one task are not independent.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...sandbox import Outcome
from ..order.measures import global_ar_ness, local_ar_ness

Json = dict[str, Any]
RESAMPLES = 10_000
_INFRASTRUCTURE = Outcome.INFRASTRUCTURE.value
PASS_AT = (1, 5, 10, 100)


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """The chance that of ``k`` samples drawn from those there are at least one passes.

    Raises:
        ValueError: fewer than ``k`` samples, or more passed than there are.
    """
    if not 1 <= k <= num_samples or not 0 <= num_passed <= num_samples:
        raise ValueError(
            f"pass@{k} of {num_samples} samples, {num_passed} passed: k is 1 to samples."
        )
    if num_samples - num_passed < k:
        return 1.0
    wrong = num_samples - num_passed
    return 1.0 - math.prod((wrong - i) / (num_samples - i) for i in range(k))


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks with its interval of 95%, all 0 to 1."""

    value: float
    low: float
    high: float


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of ``values`` and the percentile interval of 10,000 resamples of them."""
    array: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    counts = collections.Counter(array.tolist())
    levels = np.array(sorted(counts))
    shares = np.array([counts[level] for level in levels.tolist()]) / len(array)
    # resampling tasks is drawing how often each value comes: one multinomial draw a resample
    draws = np.random.default_rng(seed).multinomial(len(array), shares, size=RESAMPLES)
    means = draws @ levels / len(array)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high))


@dataclass
class Scores:
    """Of one benchmark under one setting.

    Attributes:
        pass_at: by k.
        num_tasks: that were judged.
        num_samples: that were judged.
        num_unjudged: tasks that our judge cannot judge.
        num_lost: samples whose judgement failed for no fault of theirs; they are in no score.
        outcomes: samples by how they fared.
        tokens: of an answer, mean.
        passes: forward passes of an answer, mean.
        tokens_per_pass: all tokens over all passes.
        local_ar_ness: DiffuCoder's at k 1: the share of tokens opened right after their left neighbour.
        global_ar_ness: at k 1: the share opened at the leftmost place that was still masked.
        flops: of forward passes for an answer, mean.
        seconds: of generation for an answer on this machine, mean.
    """

    pass_at: dict[int, Estimate]
    num_tasks: int
    num_samples: int
    num_unjudged: int = 0
    num_lost: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    tokens: float = 0.0
    passes: float = 0.0
    tokens_per_pass: float | None = None
    local_ar_ness: float | None = None
    global_ar_ness: float | None = None
    flops: float = 0.0
    seconds: float = 0.0

    def to_json(self) -> Json:
        """For a file."""
        return asdict(self)


def score(lines: Sequence[Json], num_unjudged: int = 0) -> Scores | None:
    """The scores of judged samples; None where there is none that counts.

    Args:
        lines: samples with ``passed`` and ``outcome``.
        num_unjudged: tasks besides, without a verdict.
    """
    counted = [line for line in lines if line["outcome"] != _INFRASTRUCTURE]
    if not counted:
        return None
    tasks: dict[str, list[bool]] = {}
    for line in counted:
        tasks.setdefault(line["task_id"], []).append(bool(line["passed"]))
    fewest = min(len(passed) for passed in tasks.values())
    pass_at = {
        k: bootstrap([pass_at_k(len(passed), sum(passed), k) for passed in tasks.values()])
        for k in PASS_AT
        if k <= fewest
    }
    tokens, passes = _sum(counted, "num_tokens"), _sum(counted, "num_forward")
    orders = [line["opened"] for line in counted if len(line["opened"]) > 1]
    return Scores(
        pass_at,
        len(tasks),
        len(counted),
        num_unjudged,
        len(lines) - len(counted),
        dict(collections.Counter(line["outcome"] for line in lines)),
        tokens / len(counted),
        passes / len(counted),
        tokens / passes if passes else None,
        _mean(local_ar_ness(order, 1) for order in orders),
        _mean(global_ar_ness(order, 1) for order in orders),
        _sum(counted, "flops") / len(counted),
        _sum(counted, "seconds") / len(counted),
    )


def area_under_accuracy(points: Iterable[tuple[float, float]]) -> float | None:
    """The area under accuracy against tokens per forward pass, divided by the range: 0 to 1.

    Rows of one model with few and with many steps give the points; between them it is straight. None for
    fewer than two different numbers of tokens per pass: a point has no area.

    Args:
        points: (tokens per pass, accuracy 0 to 1); of equal tokens per pass the best counts.
    """
    best: dict[float, float] = {}
    for speed, accuracy in points:
        best[speed] = max(accuracy, best.get(speed, 0.0))
    if len(best) < 2:
        return None
    speeds = np.array(sorted(best))
    accuracies = np.array([best[speed] for speed in speeds.tolist()])
    return float(np.trapezoid(accuracies, speeds) / (speeds[-1] - speeds[0]))


def _sum(lines: Iterable[Json], name: str) -> float:
    return float(sum(line.get(name) or 0 for line in lines))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
