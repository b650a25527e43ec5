"""Which row of which source stands at which ordinal: the blend's order, and epochs within a source.

Both are functions of what comes before: asking for more samples never changes those already
planned. The blend is megatron-core's greedy order (each sample goes to the source furthest behind
its weight), of which a longer one begins with every shorter one. A source's rows return in a new
order each epoch, by a permutation that is computed for one index at a time and needs no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import device
from ..diffusion.noise import EPOCH_ORDER, philox_words, stage_word
from ..errors import DataError
from .cache import digest_of, publish_folder

_NUM_ROUNDS = 6
_MAX_SOURCES = 32767  # megatron-core's dataset index is int16
_MASK64 = 2**64 - 1


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): all 64 input bits move all output bits."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


@lru_cache(maxsize=256)
def _round_keys(seed: int, source: int, epoch: int) -> tuple[int, ...]:
    key = (seed, stage_word("epoch-order", str(source)))
    return tuple(philox_words(key, epoch, EPOCH_ORDER, _NUM_ROUNDS).tolist())


def epoch_position(index: int, size: int, *, seed: int, source: int, epoch: int) -> int:
    """Where position ``index`` of an epoch lies in the source's own order, one to one on 0..size-1.

    A Feistel network on the next even number of bits, walked until it falls inside (fewer than four
    steps on average). Epoch 0 is the source's own order.

    Args:
        index: 0 <= index < size.
        size: rows of the source.
        seed: of the run's data.
        source: position in the blend.
        epoch: how often the source has been read through before.
    """
    if epoch == 0:
        return index
    keys = _round_keys(seed, source, epoch)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & low)
        index = left << half | right
        if index < size:
            return index


def blend_arrays(
    weights: Sequence[float], size: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """(source, index inside that source) of ordinals 0..size-1, by megatron-core's helper.

    Raises:
        DataError: no source, too many, or a weight that is not positive.
    """
    if not 0 < len(weights) <= _MAX_SOURCES:
        raise DataError(
            f"A blend has {len(weights)} sources; give 1 to {_MAX_SOURCES}, merging files if there "
            f"are more."
        )
    if any(not np.isfinite(weight) or weight <= 0 for weight in weights):
        raise DataError(f"Weights {list(weights)} of a blend must be positive; drop or mend those.")
    device.import_megatron()
    from megatron.core.datasets import helpers

    shares = np.asarray(weights, dtype=np.float64)
    shares = shares / shares.sum()
    source, index = np.zeros(size, dtype=np.int16), np.zeros(size, dtype=np.int64)
    helpers.build_blending_indices(source, index, shares, len(weights), size, False)
    return source, index


class BlendOrder:
    """(source, index inside that source) by ordinal.

    One source needs no table. More get megatron-core's, memory-mapped from the cache folder where
    there is one.

    Args:
        weights: of the sources, any positive scale.
        size: ordinals planned.
        cache_folder: where tables lie, or None to keep this one in memory.
    """

    def __init__(
        self, weights: Sequence[float], size: int, cache_folder: Path | None = None
    ) -> None:
        self.weights, self.size = [float(weight) for weight in weights], size
        digest = digest_of([self.weights, size])[:16]
        self._folder = cache_folder and cache_folder / f"blend-{digest}"
        self._arrays: tuple[NDArray[np.int16], NDArray[np.int64]] | None = None

    def build(self) -> None:
        """Write the table if it is missing; for one process a node."""
        if len(self.weights) == 1 or not self._folder or self._folder.exists():
            return
        source, index = blend_arrays(self.weights, self.size)
        with publish_folder(self._folder) as folder:
            np.save(folder / "source.npy", source)
            np.save(folder / "index.npy", index)

    def __getitem__(self, ordinal: int) -> tuple[int, int]:
        """Source and index inside it.

        Raises:
            IndexError: the ordinal was not planned.
        """
        if not 0 <= ordinal < self.size:
            raise IndexError(f"Ordinal {ordinal} is outside the {self.size} planned samples.")
        if len(self.weights) == 1:
            return 0, ordinal
        if self._arrays is None:
            self._arrays = self._load()
        source, index = self._arrays
        return int(source[ordinal]), int(index[ordinal])

    def _load(self) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        if not self._folder:
            return blend_arrays(self.weights, self.size)
        source, index = (
            np.load(self._folder / f"{n}.npy", mmap_mode="r") for n in ("source", "index")
        )
        return source, index

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_arrays": None}
