"""Which problems a step asks: all of them once an epoch, each epoch in an order of its own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..diffusion.noise import PERMUTATION, philox_words, stage_word


class ProblemOrder:
    """Problems by step, a function of seed and number alone.

    Args:
        seed: of the run's data.
        count: problems.
        per_step: asked at a time; an epoch's end may lie inside a step.
    """

    def __init__(self, seed: int, count: int, per_step: int) -> None:
        self._key = (seed, stage_word("rl", "order"))
        self.count, self.per_step = count, per_step
        self._order = lru_cache(maxsize=2)(self._of_epoch)

    def step(self, step: int) -> list[int]:
        """Numbers of the problems of ``step``, which counts from 0."""
        first = step * self.per_step
        return [
            int(self._order(number // self.count)[number % self.count])
            for number in range(first, first + self.per_step)
        ]

    def _of_epoch(self, epoch: int) -> NDArray[np.int64]:
        words = philox_words(self._key, epoch, PERMUTATION, self.count)
        return np.argsort(words, kind="stable")
