"""Writes texts as ``P.bin`` and ``P.idx``, which ``TextFiles`` reads: one sequence of UTF-8 bytes a text."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from types import TracebackType

import numpy as np

from ...files import atomic_write, fsync_folder
from ..indexed import MAGIC, VERSION
from ..prefix import prefix_path
from .text_files import HEADER, UINT8, starts_of


class TextWriter:
    """A context: grows ``.bin`` under a temporary name; ``publish`` gives the files their names.

    Args:
        prefix: of the finished files.
        folder: of the temporary file, on the same disk.

    Attributes:
        num_samples: written so far.
        num_bytes: of them.
        max_tokens: of the longest, as its caller counts.
    """

    def __init__(self, prefix: Path, folder: Path) -> None:
        self.prefix = prefix
        self.num_samples = self.num_bytes = self.max_tokens = 0
        self._lengths = array("i")
        self._temporary = folder / f"{prefix.name}.bin.tmp"
        self._stream = open(self._temporary, "wb")  # noqa: SIM115

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, text: bytes, num_tokens: int) -> None:
        """Append one text of ``num_tokens`` tokens."""
        self._stream.write(text)
        self._lengths.append(len(text))
        self.num_samples += 1
        self.num_bytes += len(text)
        self.max_tokens = max(self.max_tokens, num_tokens)

    def publish(self) -> None:
        """Write the index and give both files their names, ``.idx`` last: nobody reads without it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        index = prefix_path(self.prefix, ".idx")
        index.unlink(missing_ok=True)
        os.replace(self._temporary, prefix_path(self.prefix, ".bin"))
        fsync_folder(self.prefix.parent)
        lengths = np.frombuffer(self._lengths, np.intc).astype(np.int32)
        ends = np.arange(lengths.size + 1, dtype=np.int64)
        with atomic_write(index, "wb") as stream:
            stream.write(HEADER.pack(MAGIC, VERSION, UINT8, lengths.size, ends.size))
            for numbers in (lengths, starts_of(lengths), ends):
                stream.write(np.ascontiguousarray(numbers).data)
