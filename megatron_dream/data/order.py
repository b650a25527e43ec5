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
from .blend_table import BlendTable, shares_of, table_size, write_table
from .cache import await_folder, digest_of, publish_folder

_NUM_ROUNDS = 6
_TABLE_FORMAT = 2
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
    shares = shares_of(weights)
    device.import_megatron()
    from megatron.core.datasets import helpers

    source, index = np.zeros(size, dtype=np.int16), np.zeros(size, dtype=np.int64)
    helpers.build_blending_indices(source, index, shares, len(weights), size, False)
    return source, index


class BlendOrder:
    """(source, index inside that source) by ordinal.

    One source needs no table. More get megatron-core's order, memory-mapped from the cache folder
    where there is one. A table for more samples serves as well: it begins with this one.

    Args:
        weights: of the sources, any positive scale.
        size: ordinals planned.
        cache_folder: where tables lie, or None to keep this one in memory.

    Raises:
        DataError: no source, too many, or a weight that is not positive.
    """

    def __init__(
        self, weights: Sequence[float], size: int, cache_folder: Path | None = None
    ) -> None:
        self.weights, self.size = [float(weight) for weight in weights], size
        self._shares = shares_of(self.weights)
        digest = digest_of([_TABLE_FORMAT, [share.hex() for share in self._shares.tolist()]])
        self._cache_folder, self._name = cache_folder, f"blend-{digest[:16]}"
        self._table_size = table_size(size, len(self.weights))
        self._arrays: tuple[NDArray[np.int16], NDArray[np.int64]] | None = None
        self._table: BlendTable | None = None

    @property
    def needs_table(self) -> bool:
        """Whether there is anything to build."""
        return len(self.weights) > 1 and self._cache_folder is not None

    @property
    def is_built(self) -> bool:
        """Whether a table that is long enough lies there."""
        return not self.needs_table or self.folder().exists()

    def folder(self) -> Path:
        """Of the shortest table that is long enough; where it would be if there is none."""
        if self._cache_folder is None:
            raise ValueError("a blend order in memory has no folder")
        sizes = [self._table_size]
        for found in self._cache_folder.glob(f"{self._name}-*"):
            ending = found.name.rpartition("-")[2]
            if ending.isdecimal() and int(ending) >= self.size:
                sizes.append(int(ending))
        ordered = [self._cache_folder / f"{self._name}-{size}" for size in sorted(sizes)]
        return next((path for path in ordered if path.exists()), ordered[0])

    def build(self) -> None:
        """Write the table if it is missing; for one process a node."""
        if self.is_built or self._cache_folder is None:
            return
        with publish_folder(self._cache_folder / f"{self._name}-{self._table_size}") as folder:
            write_table(folder, self._shares, self._table_size)

    def check(self, *, with_content: bool, wait_seconds: float) -> None:
        """Wait until the table is there and whole (``await_folder``).

        Raises:
            DataError: it is not, after ``wait_seconds``.
        """
        if self.needs_table:
            await_folder(self.folder, with_content=with_content, wait_seconds=wait_seconds)

    def __getitem__(self, ordinal: int) -> tuple[int, int]:
        """Source and index inside it.

        Raises:
            IndexError: the ordinal was not planned.
        """
        if not 0 <= ordinal < self.size:
            raise IndexError(f"Ordinal {ordinal} is outside the {self.size} planned samples.")
        if len(self.weights) == 1:
            return 0, ordinal
        if self._cache_folder is not None:
            if self._table is None:
                self._table = BlendTable(self.folder())
            return self._table[ordinal]
        if self._arrays is None:
            self._arrays = blend_arrays(self.weights, self.size)
        source, index = self._arrays
        return int(source[ordinal]), int(index[ordinal])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_arrays": None, "_table": None}


class SampleOrder:
    """(source, index) by number in the stream; every epoch of a source has an order of its own.

    Args:
        sizes: samples of each source.
        blend: which source stands where.
        seed: of the run's data.
    """

    def __init__(self, sizes: list[int], blend: BlendOrder, seed: int) -> None:
        self.sizes, self.blend, self.seed = sizes, blend, seed

    def __len__(self) -> int:
        return self.blend.size

    def __getitem__(self, n: int) -> tuple[int, int]:
        source, count = self.blend[n]
        epoch, index = divmod(count, self.sizes[source])
        # Epoch 0 of epoch_position is the source's own order, sorted as it may be.
        place = epoch_position(
            index, self.sizes[source], seed=self.seed, source=source, epoch=epoch + 1
        )
        return source, place
