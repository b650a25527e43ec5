"""Vectors of texts on disk, found by a digest of the text, that are appended and never made twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DIGEST = 32  # bytes


class VectorStore:
    """``path.f16`` with rows of float16, and ``path.sha256`` with the digest of each row's text.

    Rows that a kill has left without a digest, or half written, are cut away.

    Args:
        path: without a suffix.
        size: of a vector.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        self._vectors, self._digests = path.with_suffix(".f16"), path.with_suffix(".sha256")
        for file in (self._vectors, self._digests):
            file.touch()
        count = min(
            self._vectors.stat().st_size // (2 * size), self._digests.stat().st_size // _DIGEST
        )
        os.truncate(self._vectors, 2 * size * count)
        os.truncate(self._digests, _DIGEST * count)
        told = self._digests.read_bytes()
        self._rows = {told[_DIGEST * k : _DIGEST * (k + 1)]: k for k in range(count)}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def add(self, digests: Sequence[bytes], vectors: NDArray[np.floating]) -> None:
        """Append vectors, [N, size]; they are on the disk when this returns, before their digests."""
        for file, data in (
            (self._vectors, vectors.astype(np.float16).tobytes()),
            (self._digests, b"".join(digests)),
        ):
            with open(file, "ab") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        for digest in digests:
            self._rows[digest] = len(self._rows)

    def rows(self, digests: Sequence[bytes]) -> MappedRows:
        """Vectors of texts that are all here, [N, size]."""
        numbers = np.array([self._rows[digest] for digest in digests], np.int64)
        if not len(self._rows):
            return MappedRows(np.zeros((0, self._size), np.float16), numbers)
        shape = (len(self._rows), self._size)
        return MappedRows(np.memmap(self._vectors, np.float16, "r", shape=shape), numbers)


class MappedRows:
    """Rows of a file in an order of their own; what is asked for is read when it is."""

    def __init__(self, vectors: NDArray[np.float16], numbers: NDArray[np.int64]) -> None:
        self._vectors, self._numbers = vectors, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, key: Any) -> NDArray[np.float16]:
        return np.asarray(self._vectors[self._numbers[key]])
