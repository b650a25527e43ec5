"""Means and paired differences with intervals of 95%: what a sweep may say of its figures.

Pairs are the same task, or the same seed with its data and masks, under two settings: what is common to both
(a hard task, a lucky order of the data) falls out of the difference. Many pairs are resampled, as scores are
(harness/scores.py); few, such as five seeds, get Student's t, which knows how little five values say of
their own spread.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

from ..harness.scores import Estimate, bootstrap

FEWEST_TO_RESAMPLE = 20
Key = TypeVar("Key", bound=Hashable)


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of independent values with the interval of Student's t.

    One value says nothing of the spread: its interval is without bounds.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("There is no value to take a mean of.")
    if not np.isfinite(array).all():
        raise ValueError("Of values that are not finite there is no mean.")
    mean = float(array.mean())
    if array.size == 1:
        return Estimate(mean, -math.inf, math.inf)
    error = float(array.std(ddof=1)) / math.sqrt(array.size)
    half = float(stats.t.ppf(0.975, array.size - 1)) * error
    return Estimate(mean, mean - half, mean + half)


def paired_difference(a: Mapping[Key, float], b: Mapping[Key, float]) -> Estimate:
    """The mean of a - b over the tasks or seeds that both have.

    From 20 pairs on the interval is of 10,000 resamples of the pairs, below of Student's t.

    Raises:
        ValueError: no key in common, or a value that is not finite.
    """
    differences = [float(a[key]) - float(b[key]) for key in a if key in b]
    if len(differences) < FEWEST_TO_RESAMPLE:
        return mean_over_seeds(differences)
    if not np.isfinite(differences).all():
        raise ValueError("Of values that are not finite there is no mean.")
    return bootstrap(differences)


def shows_difference(difference: Estimate) -> bool:
    """Whether the interval leaves out 0."""
    return difference.low > 0.0 or difference.high < 0.0


def estimate_columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """The three columns of an estimate; a bound that is not finite is empty, as is an absent estimate."""
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    values = (estimate.value, estimate.low, estimate.high)
    names = (name, f"{name}_low", f"{name}_high")
    return {
        key: value if math.isfinite(value) else None
        for key, value in zip(names, values, strict=True)
    }
