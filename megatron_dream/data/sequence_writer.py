"""Grows ``P.bin`` and ``P.idx`` from sequences whose number nobody knows beforehand.

The index is megatron-core's (``MMIDIDX``, version 1). One process writes; what preprocessing's many make is
put together by preprocessing/merge.py.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..files import atomic_write, fsync_folder
from .indexed import MAGIC, VERSION
from .prefix import prefix_path

HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, document ends
CODES = {"uint8": 1, "int32": 4, "uint16": 8}


class SequenceWriter:
    """A context: grows ``.bin`` under a temporary name; ``publish`` gives the files their names.

    Args:
        prefix: of the finished files.
        folder: of the temporary file, on the same disk.
        dtype: of the items.

    Attributes:
        num_samples: documents written so far.
    """

    per_document: ClassVar[int] = 1  # sequences

    def __init__(self, prefix: Path, folder: Path, dtype: np.dtype[Any]) -> None:
        self.prefix, self.dtype = prefix, dtype
        self.num_samples = 0
        self._lengths = array("i")
        self._temporary = folder / f"{prefix.name}.bin.tmp"
        self._stream = open(self._temporary, "wb")  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def append(self, items: Any, lengths: Sequence[int]) -> None:
        """Append one document: the bytes of its sequences, and how many items each has."""
        self._stream.write(items)
        self._lengths.extend(lengths)
        self.num_samples += 1

    def publish(self) -> None:
        """Write the index and give both files their names, ``.idx`` last: nobody reads without it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        prefix_path(self.prefix, ".idx").unlink(missing_ok=True)
        os.replace(self._temporary, prefix_path(self.prefix, ".bin"))
        fsync_folder(self.prefix.parent)
        lengths = np.frombuffer(self._lengths, np.intc).astype(np.int32, copy=False)
        path = prefix_path(self.prefix, ".idx")
        write_sequence_index(path, lengths, self.dtype, self.per_document)


def starts_of(lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """First item of each of sequences that lie one after another, int64 [sequences]."""
    starts = np.zeros(lengths.size, np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=starts[1:])
    return starts


def write_sequence_index(
    path: Path, lengths: NDArray[np.int32], dtype: np.dtype[Any], per_document: int
) -> None:
    """Write the index of sequences that lie one after another.

    Args:
        path: of the file.
        lengths: int32 [sequences].
        dtype: of the items.
        per_document: sequences of each document.
    """
    ends = np.arange(0, lengths.size + 1, per_document, dtype=np.int64)
    with atomic_write(path, "wb") as stream:
        stream.write(HEADER.pack(MAGIC, VERSION, CODES[dtype.name], lengths.size, ends.size))
        for numbers in (lengths, starts_of(lengths) * dtype.itemsize, ends):
            stream.write(np.ascontiguousarray(numbers).data)
