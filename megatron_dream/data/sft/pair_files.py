"""Writes SFT token files: ``P.bin`` and ``P.idx`` with two sequences a document, prompt and response.

The index is megatron-core's (``MMIDIDX``, version 1); document i is the sequences 2i and 2i + 1, so
that document ends are 0, 2, 4 and so on. End tokens are not in the files: the stage appends the one
that its recipe asks for.
"""

from __future__ import annotations

import os
import struct
from array import array
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files import atomic_write, fsync_folder
from ..indexed import MAGIC, VERSION
from ..prefix import prefix_path

_HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, documents
_CODES = {"int32": 4, "uint16": 8}


class PairWriter:
    """A context: grows ``.bin`` under a temporary name; ``publish`` gives the files their names.

    Args:
        prefix: of the finished files.
        folder: of the temporary file, on the same disk.
        dtype: of the ids on disk.

    Attributes:
        num_samples: written so far.
        num_tokens: of all samples, without end tokens.
        longest: tokens of the longest prompt, response, and row (both and one end token).
    """

    def __init__(self, prefix: Path, folder: Path, dtype: np.dtype[Any]) -> None:
        self.prefix, self.dtype = prefix, dtype
        self.num_samples = self.num_tokens = 0
        self.longest = {"prompt": 0, "response": 0, "row": 0}
        self._lengths = array("i")
        self._temporary = folder / f"{prefix.name}.bin.tmp"
        self._stream = open(self._temporary, "wb")  # noqa: SIM115

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, ids: NDArray[Any], prompt: int, response: int) -> None:
        """Append one sample.

        Args:
            ids: of prompt and response, [prompt + response], of ``dtype``.
            prompt: tokens of the prompt.
            response: tokens of the response.
        """
        self._stream.write(np.ascontiguousarray(ids, self.dtype).data)
        self._lengths.extend((prompt, response))
        self.num_samples += 1
        self.num_tokens += prompt + response
        for name, length in (
            ("prompt", prompt),
            ("response", response),
            ("row", prompt + response + 1),
        ):
            self.longest[name] = max(self.longest[name], length)

    def publish(self) -> None:
        """Write the index and give both files their names, ``.idx`` last: nobody reads without it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        prefix_path(self.prefix, ".idx").unlink(missing_ok=True)
        os.replace(self._temporary, prefix_path(self.prefix, ".bin"))
        fsync_folder(self.prefix.parent)
        lengths = np.frombuffer(self._lengths, np.intc).astype(np.int32, copy=False)
        write_pair_index(prefix_path(self.prefix, ".idx"), lengths, self.dtype)


def write_pair_index(path: Path, lengths: NDArray[np.int32], dtype: np.dtype[Any]) -> None:
    """Write the index of sequences that lie one after another, two a document.

    Args:
        path: of the file.
        lengths: int32 [2 documents].
        dtype: of the ids.
    """
    offsets = np.zeros(lengths.size, np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=offsets[1:])
    offsets *= dtype.itemsize
    ends = np.arange(0, lengths.size + 1, 2, dtype=np.int64)
    with atomic_write(path, "wb") as stream:
        stream.write(_HEADER.pack(MAGIC, VERSION, _CODES[dtype.name], lengths.size, ends.size))
        for numbers in (lengths, offsets, ends):
            stream.write(np.ascontiguousarray(numbers).data)
