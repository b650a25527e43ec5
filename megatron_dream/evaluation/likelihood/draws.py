"""Which tokens of a continuation are masked, and with what weight: the random part of the bound.

Every kind gives masked sets m and weights w so that the bound, -log p <= sum over m of w_m times the
cross-entropies at m, is estimated without bias (count, all) or up to ``T_MIN`` (the others: times below
it are not drawn, because with 1/t the variance of a plain draw would have no bound).

    plain          t of each draw uniform in (T_MIN, 1), each token masked with probability t; w = 1/(N t)
    stratified     the same, one time in each N-th of the range
    complementary  pairs: t in one of N/2 parts of (T_MIN, 1/2), {u < t} masked at t, the rest at 1 - t
    count          l tokens masked, l stratified over 1..L; w = L/(N l)  (LLaDA, 2502.09992)
    all            every set once, w = 1/(l C(L, l)): the bound itself, 2^L - 1 rows

Numbers come from Philox (diffusion/noise.py) at counter (draw, position of the continuation) under a key
of (seed, question): all choices of a question share them, whatever their lengths, and no number depends
on which other texts are scored. A set that several draws give, as short continuations do, is one row.

Shapes: N draws (mc_num), L tokens of the continuation, M distinct sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...diffusion.noise import SAMPLE, NoiseStream, philox_words, unit_floats

KINDS = ("plain", "stratified", "complementary", "count", "all")
T_MIN = 1e-3
MOST_ENUMERATED = 16  # tokens; 65,535 sets

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskPlan:
    """What is run for one continuation.

    Attributes:
        masks_ML: bool, distinct sets, none empty.
        weights_M: float64; the estimate is the sum of weight times the cross-entropies at the set.
    """

    masks_ML: Bools
    weights_M: Floats


def check_draws(draws: str, mc_num: int) -> None:
    """Refuse what no plan can be made of.

    Raises:
        ValueError: one sentence.
    """
    if draws not in KINDS:
        raise ValueError(f"draws is {draws!r}: give one of {', '.join(KINDS)}.")
    if mc_num < 1:
        raise ValueError(f"mc_num is {mc_num}: give a whole number of at least 1.")
    if draws == "complementary" and mc_num % 2:
        raise ValueError(
            f"mc_num is {mc_num}: complementary draws come in pairs, give an even one."
        )


def plan_masks(draws: str, length: int, mc_num: int, seed: int, question: int = 0) -> MaskPlan:
    """The sets of one continuation, each once.

    Args:
        draws: one of ``KINDS``.
        length: L, 1 or more.
        mc_num: N; ``all`` does not use it.
        seed: of the evaluation.
        question: its number; equal for all choices of one question.

    Raises:
        ValueError: unknown draws, an odd number of complementary ones, too long for ``all``.
    """
    check_draws(draws, mc_num)
    if draws == "all":
        return _every_set(length)
    return _merged(*draw_masks(draws, length, mc_num, seed, question))


def draw_masks(
    draws: str, length: int, mc_num: int, seed: int, question: int = 0
) -> tuple[Bools, Floats]:
    """Every draw's set, empty and repeated ones too, bool [N, L], and its weight, float64 [N].

    Args:
        draws: one of ``KINDS`` but ``all``.
        length: as in ``plan_masks``.
        mc_num: likewise.
        seed: likewise.
        question: likewise.
    """
    numbers = _Numbers(seed, question, length)
    if draws == "complementary":
        return _complementary(numbers, mc_num)
    if draws == "count":
        return _count(numbers, mc_num)
    u_N = numbers.times(mc_num)
    if draws == "stratified":
        u_N = (np.arange(mc_num) + u_N) / mc_num
    t_N = T_MIN + (1.0 - T_MIN) * u_N
    return numbers.positions(mc_num) < t_N[:, None], 1.0 / (mc_num * t_N)


@dataclass(frozen=True)
class _Numbers:
    """Uniform numbers of one question."""

    seed: int
    question: int
    length: int

    @property
    def _stream(self) -> NoiseStream:
        return NoiseStream(self.seed, "likelihood", str(self.question))

    def times(self, count: int) -> Floats:
        """One a draw, float64 [count]."""
        key = self._stream.key
        return np.array([unit_floats(philox_words(key, n, SAMPLE, 1))[0] for n in range(count)])

    def positions(self, count: int) -> Floats:
        """One a draw and token, float64 [count, L]."""
        return np.stack([self._stream.positions(n, self.length) for n in range(count)])


def _complementary(numbers: _Numbers, mc_num: int) -> tuple[Bools, Floats]:
    pairs = mc_num // 2
    t_P = T_MIN + (0.5 - T_MIN) * (np.arange(pairs) + numbers.times(pairs)) / pairs
    masks_PL = numbers.positions(pairs) < t_P[:, None]
    weights = np.concatenate([1.0 / t_P, 1.0 / (1.0 - t_P)]) / mc_num
    return np.concatenate([masks_PL, ~masks_PL]), weights


def _count(numbers: _Numbers, mc_num: int) -> tuple[Bools, Floats]:
    length = numbers.length
    u_N = (np.arange(mc_num) + numbers.times(mc_num)) / mc_num
    count_N = np.minimum((u_N * length).astype(np.int64) + 1, length)
    rank_NL = numbers.positions(mc_num).argsort(axis=1, kind="stable").argsort(axis=1)
    return rank_NL < count_N[:, None], length / (count_N * mc_num)


def _merged(masks_NL: Bools, weights_N: Floats) -> MaskPlan:
    """Equal sets once, with the sum of their weights; empty ones left out."""
    is_some_N = masks_NL.any(axis=1)
    masks_ML, place_N = np.unique(masks_NL[is_some_N], axis=0, return_inverse=True)
    weights_M = np.zeros(len(masks_ML))
    np.add.at(weights_M, place_N.reshape(-1), weights_N[is_some_N])
    return MaskPlan(masks_ML, weights_M)


def every_mask(length: int) -> Bools:
    """All sets of ``length`` tokens but the empty one, bool [2^L - 1, L]; row k is the bits of k + 1.

    Raises:
        ValueError: too many.
    """
    if length > MOST_ENUMERATED:
        raise ValueError(
            f"a continuation of {length} tokens has 2^{length} - 1 sets of masks: enumerate at most "
            f"{MOST_ENUMERATED} tokens, or draw sets (plain, stratified, complementary, count)."
        )
    numbers = np.arange(1, 1 << length)
    return (numbers[:, None] >> np.arange(length) & 1).astype(bool)


def _every_set(length: int) -> MaskPlan:
    masks_ML = every_mask(length)
    counts = masks_ML.sum(axis=1)
    return MaskPlan(masks_ML, np.array([1.0 / (n * math.comb(length, n)) for n in counts.tolist()]))
