"""From signatures to the documents to drop: sort and merge each band, join what met, keep the first.

A unit of work is a slice of one band's key space: the parts keep their keys sorted, so each gives
one range of them, and equal keys stand side by side once the ranges are merged. Documents that met
in any band are one group (connected components). Of a group the first document stays: lowest place
of its file (the source's in the recipe, then the file's), then position.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...files import atomic_write
from .signatures import SignatureRecord, Signatures

SLICE_ROWS = 8_000_000  # keys merged at once: 16 bytes each, and as much to sort them
Rows = NDArray[np.int64]


class AllSignatures:
    """All parts of a pass; a row's number counts through them in shard order.

    Args:
        folder: of the parts.
        records: of all shards, in order.
    """

    def __init__(self, folder: Path, records: Sequence[SignatureRecord]) -> None:
        self.folder, self.parts = folder, [Signatures(folder, record) for record in records]
        self.num_bands = records[0].bands if records else 1
        self.starts = np.cumsum([0, *(record.signed for record in records)])
        self.num_rows = int(self.starts[-1])

    def slices(self) -> list[tuple[int, int, int]]:
        """(band, first key, last key), high halves inclusive: the units of ``write_pairs``."""
        count = max(1, -(-self.num_rows // SLICE_ROWS))
        bounds = [(1 << 64) * n // count for n in range(count + 1)]
        return [
            (band, bounds[n], bounds[n + 1] - 1)
            for band in range(self.num_bands)
            for n in range(count)
        ]

    def pairs(self, band: int, first: int, last: int) -> Rows:
        """Rows that share a key with the row before them in the merged order: int64 [pairs, 2]."""
        found = [part.keys(band, first, last) for part in self.parts]
        high = np.concatenate([keys[0] for keys in found])
        low = np.concatenate([keys[1] for keys in found])
        rows = np.concatenate(
            [start + keys[2] for start, keys in zip(self.starts, found, strict=False)]
        )
        sorting = np.lexsort((low, high))
        high, low, rows = high[sorting], low[sorting], rows[sorting]
        is_same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        return np.stack([rows[:-1][is_same], rows[1:][is_same]], axis=1).astype(np.int64)

    def identities(self, rows: Rows) -> NDArray[np.uint64]:
        """[5, rows]: place, position (high, low), id (high, low) of rows in ascending order."""
        bounds = np.searchsorted(rows, self.starts)
        columns = [
            part.identity_columns(rows[first:last] - start)
            for part, start, first, last in zip(
                self.parts, self.starts, bounds, bounds[1:], strict=False
            )
        ]
        return np.concatenate(columns, axis=1)


def write_pairs(signatures: AllSignatures, unit: int, folder: Path) -> None:
    """Write ``pairs_NNNNNN.npy`` of one slice, unless it is there."""
    path = folder / f"pairs_{unit:06d}.npy"
    if not path.exists():
        pairs = signatures.pairs(*signatures.slices()[unit])
        with atomic_write(path, "wb") as stream:
            np.save(stream, pairs)


def ids_to_drop(signatures: AllSignatures, folder: Path) -> tuple[bytes, int]:
    """Join the pairs of all slices.

    Args:
        signatures: that they are of.
        folder: with a ``pairs`` file of every slice.

    Returns:
        Hashes of the ids of all documents but the first of each group, sorted, and the number of
        groups.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    files = [folder / f"pairs_{unit:06d}.npy" for unit in range(len(signatures.slices()))]
    pairs = np.concatenate([np.load(file) for file in files])
    rows, numbers = np.unique(pairs, return_inverse=True)
    if not rows.size:
        return b"", 0
    numbers = numbers.reshape(-1, 2)
    ones = np.ones(len(pairs), dtype=np.int8)
    graph = coo_array((ones, (numbers[:, 0], numbers[:, 1])), shape=(rows.size, rows.size))
    num_groups, group = connected_components(graph, directed=False)
    place, high, low, id_high, id_low = signatures.identities(rows)
    order = np.lexsort((low, high, place, group))
    is_later = np.diff(group[order], prepend=-1) == 0
    dropped = order[is_later]
    dropped = dropped[np.lexsort((id_low[dropped], id_high[dropped]))]
    words = np.stack([id_high[dropped], id_low[dropped]], axis=1)
    return words.astype(">u8").tobytes(), int(num_groups)
