"""The blend's order as a table on disk: who computes it, how it is written, how one entry is read.

megatron-core's helper computes it, so that the order is its own to the bit. It goes through all
samples at once, but where it writes is ours to choose: the sources go into a memory-mapped file,
from which the kernel may drop pages at any time, and the indices inside the sources, which follow
from the sources, into one cell over and over. From that file the table is written in pieces:

    source.npy   uint8 (int16 above 256 sources) [size], the source of each sample
    counts.npy   int64 [blocks, sources], samples of each source before each block of samples

An index inside a source is a count and what the block adds to it. That is 1.1 bytes a sample with
ten sources, where both arrays of the helper are 10.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .. import device
from ..errors import DataError

_MAX_SOURCES = 32767  # megatron-core's dataset index is int16
_PIECE_SAMPLES = 1 << 20  # at once, when a table is written; a multiple of all pages
_MIN_BLOCK = 1024


def shares_of(weights: Sequence[float]) -> NDArray[np.float64]:
    """Weights that add up to 1.

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
    shares = np.asarray(weights, dtype=np.float64)
    return shares / shares.sum()


def block_size(num_sources: int) -> int:
    """Samples of a block: so many that its counts take no more than a byte of each."""
    return max(_MIN_BLOCK, 1 << (8 * num_sources - 1).bit_length())


def table_size(size: int, num_sources: int) -> int:
    """Samples of the table for a run of ``size``: 1/64 more, in whole blocks.

    A run that skips samples or changes its batch size plans a few more than it did at first, and
    must not need another table for that.
    """
    block = block_size(num_sources)
    return -(-(max(size, 1) + size // 64) // block) * block


def fill_sources(shares: NDArray[np.float64], sources: NDArray[np.int16]) -> None:
    """Write the source of samples 0..len-1 by megatron-core's helper.

    Args:
        shares: of ``shares_of``.
        sources: int16 [size], to be filled.
    """
    device.import_megatron()
    from megatron.core.datasets import helpers

    cell = np.full(1, -1, dtype=np.int64)
    indices = np.lib.stride_tricks.as_strided(cell, shape=sources.shape, strides=(0,))
    helpers.build_blending_indices(sources, indices, shares, shares.size, sources.size, False)
    if cell[0] < 0:  # the helper was handed a copy
        raise RuntimeError("megatron-core's build_blending_indices no longer fills its arguments")


@contextmanager
def _scratch(path: Path, size: int) -> Iterator[tuple[mmap.mmap, NDArray[np.int16]]]:
    """A new memory-mapped file of ``size`` int16, removed at the end."""
    with open(path, "w+b") as stream:
        os.posix_fallocate(
            stream.fileno(), 0, 2 * size
        )  # no room is an error here, not a signal later
        area = mmap.mmap(stream.fileno(), 2 * size)
        try:
            yield area, np.frombuffer(area, dtype=np.int16)
        finally:
            path.unlink()


def write_table(folder: Path, shares: NDArray[np.float64], size: int) -> None:
    """Write ``source.npy`` and ``counts.npy`` of ``size`` samples, whole blocks, into ``folder``."""
    block = block_size(shares.size)
    dtype = np.dtype(np.uint8 if shares.size <= 256 else np.int16)
    piece_size = max(_PIECE_SAMPLES, block)
    totals = np.zeros(shares.size, dtype=np.int64)
    with (
        _scratch(folder / "scratch", size) as (area, sources),
        open(folder / "source.npy", "wb") as source_file,
        open(folder / "counts.npy", "wb") as count_file,
    ):
        fill_sources(shares, sources)
        _write_header(source_file, dtype, (size,))
        _write_header(count_file, np.dtype(np.int64), (size // block, shares.size))
        for start in range(0, size, piece_size):
            piece = sources[start : start + piece_size]
            source_file.write(piece.astype(dtype).data)
            inside = _counts(piece, block, shares.size)
            before = np.cumsum(inside, axis=0) - inside + totals
            count_file.write(before.data)
            totals += inside.sum(axis=0)
            area.madvise(mmap.MADV_DONTNEED, 2 * start, 2 * piece.size)
        del sources, piece  # else the area stays mapped


def _counts(sources: NDArray[np.int16], block: int, num_sources: int) -> NDArray[np.int64]:
    """Samples of each source in each block, int64 [blocks, sources]."""
    blocks = sources.size // block
    keys = sources + np.repeat(np.arange(blocks, dtype=np.int64) * num_sources, block)
    return np.bincount(keys, minlength=blocks * num_sources).reshape(blocks, num_sources)


def _write_header(stream: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


class BlendTable:
    """A table that was written, memory-mapped: what one process reads, others of its node share.

    Args:
        folder: with both files, checked before (data/cache.py).
    """

    def __init__(self, folder: Path) -> None:
        # Views as plain arrays: slicing a memmap costs more than the whole look-up
        self._sources = np.asarray(np.load(folder / "source.npy", mmap_mode="r"))
        self._counts = np.asarray(np.load(folder / "counts.npy", mmap_mode="r"))
        self._block = self._sources.size // len(self._counts)

    def __len__(self) -> int:
        return self._sources.size

    def __getitem__(self, ordinal: int) -> tuple[int, int]:
        """Source of a sample and its index inside it."""
        block = ordinal // self._block
        source = self._sources[ordinal]
        inside = self._sources[block * self._block : ordinal] == source
        return int(source), int(self._counts[block, source]) + int(np.count_nonzero(inside))
