"""Which problems a step asks: all of them once an epoch, each epoch in an order of its own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..diffusion.noise import PERMUTATION, philox_words, stage_word


class ProblemOrder:
    """Problems by ordinal, a function of seed and number alone.

    Args:
        seed: of the run's data.
        count: problems.
    """

    def __init__(self, seed: int, count: int) -> None:
        self._key = (seed, stage_word("rl", "order"))
        self.count = count
        self._order = lru_cache(maxsize=2)(self._of_epoch)

    def asked(self, first: int, number: int) -> list[int]:
        """Problems of ordinals first, first + 1, ...: an epoch's end may lie among them."""
        return [
            int(self._order(ordinal // self.count)[ordinal % self.count])
            for ordinal in range(first, first + number)
        ]

    def _of_epoch(self, epoch: int) -> NDArray[np.int64]:
        words = philox_words(self._key, epoch, PERMUTATION, self.count)
        return np.argsort(words, kind="stable")
