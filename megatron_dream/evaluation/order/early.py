"""Whether structure opens before other tokens that were as unsure: pairs of equal first-step entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .structure import Kind

BINS = 10
RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EarlyStructure:
    """Of all samples together.

    Attributes:
        crude: share of pairs of one sample in which structure opens first, ties half.
        matched: the same over pairs whose first entropies lie in the same bin.
        low: 2.5% of ``matched`` over samples drawn again; None: a single sample has such pairs, and
            what is drawn again is always that one.
        high: 97.5%, likewise.
        pairs: matched ones.
        samples: that have one.
    """

    crude: float
    matched: float
    low: float | None
    high: float | None
    pairs: int
    samples: int


@dataclass(frozen=True)
class Opened:
    """Of one sample, an entry a token of the text.

    Attributes:
        steps: when it opened.
        kinds: layout is left out.
        entropies: nats, of the wholly masked canvas.
    """

    steps: Sequence[int]
    kinds: Sequence[Kind]
    entropies: Sequence[float]


def early_structure(samples: Sequence[Opened], seed: int = 0) -> EarlyStructure | None:
    """The figures; None where no pair is of equal entropy.

    Args:
        samples: at least one.
        seed: of the samples drawn again.
    """
    entropies = [
        entropy
        for one in samples
        for entropy, kind in zip(one.entropies, one.kinds, strict=True)
        if kind != "layout"
    ]
    if not entropies:
        return None
    edges = np.quantile(entropies, np.arange(1, BINS) / BINS)
    counted = np.array([_count(one, edges) for one in samples])  # [samples, 4]
    wins, pairs, crude_wins, crude_pairs = counted.sum(axis=0)
    if not pairs:
        return None
    with_pairs = int((counted[:, 1] > 0).sum())
    low, high = _interval(counted[:, :2], seed) if with_pairs > 1 else (None, None)
    return EarlyStructure(
        crude=float(crude_wins / crude_pairs),
        matched=float(wins / pairs),
        low=low,
        high=high,
        pairs=int(pairs),
        samples=with_pairs,
    )


def _interval(counted: Floats, seed: int) -> tuple[float, float]:
    """95% of the share of wins [samples, 2] in pairs, over samples drawn again."""
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = generator.integers(0, len(counted), (RESAMPLES, len(counted)))
    sums = counted[drawn].sum(axis=1)
    shares = sums[sums[:, 1] > 0]
    low, high = np.quantile(shares[:, 0] / shares[:, 1], [0.025, 0.975])
    return float(low), float(high)


def _count(sample: Opened, edges: Floats) -> tuple[float, float, float, float]:
    """Wins and pairs of equal entropy, and of all."""
    step_n = np.asarray(sample.steps)
    bin_n = np.searchsorted(edges, sample.entropies, side="right")
    places = [
        np.array([k == kind for k in sample.kinds], dtype=bool) for kind in ("structure", "other")
    ]
    first, second = (place.nonzero()[0] for place in places)
    difference = step_n[second][None, :] - step_n[first][:, None]
    wins = (difference > 0) + 0.5 * (difference == 0)
    is_equal = bin_n[first][:, None] == bin_n[second][None, :]
    return float(wins[is_equal].sum()), int(is_equal.sum()), float(wins.sum()), wins.size
