"""Parts to ``P.bin`` and ``P.idx``: concatenation in shard order, offsets from the lengths.

The index is megatron-core's (``MMIDIDX``, version 1): header, int32 length and int64 byte offset of
every document, int64 document ends. Parts are taken in as soon as all before them are there, in a
thread beside the workers. Bytes are copied by the kernel, and a part's ids go as soon as their copy is
on the disk, so that a merge needs little more room than its result: a journal says how far it is, and
a killed merge cuts its file back to there and goes on.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...files import atomic_write, fsync_folder, write_json
from ..prefix import prefix_path
from .parts import PartRecord, check_part, part_path

_HEADER = struct.Struct("<9sQB")  # magic, version, dtype code
_CODES = {"int32": 4, "uint16": 8}
_SYNC_BYTES = 1 << 28  # copied between two entries of the journal
_COPY_BYTES = 1 << 26  # asked of the kernel at once
_UNLINK_THREADS = 4
JOURNAL = "merge.json"


@dataclass(frozen=True)
class OutputFile:
    """One pair of token files and the documents that it holds, in input order.

    Attributes:
        prefix: path without ending.
        temporary: where its ids grow before they have their name.
        first: number of its first document.
        end: one past its last.
        num_bytes: of ``.bin``.
    """

    prefix: Path
    temporary: Path
    first: int
    end: int
    num_bytes: int


class Cuts:
    """Where one file ends and the next begins: none holds more than ``max_bytes``.

    A document is never cut: a longer one has a file of its own. Whatever follows, a cut stays where it
    is, so that files can be written before all lengths are known.

    Args:
        itemsize: bytes of one id.
        max_bytes: of one file.

    Attributes:
        documents: in all files.
        num_bytes: of all files.
        starts: (documents, bytes) before each file.
    """

    def __init__(self, itemsize: int, max_bytes: int) -> None:
        self._itemsize, self._max = itemsize, max_bytes
        self.documents = self.num_bytes = 0
        self.starts = [(0, 0)]

    def add(self, lengths: NDArray[np.int32]) -> None:
        """Take in the next documents, int32 [documents]."""
        if not lengths.size:
            return
        ends = self.num_bytes + np.cumsum(lengths, dtype=np.int64) * self._itemsize
        while True:
            first, start = self.starts[-1]
            over = int(np.searchsorted(ends, start + self._max, side="right"))
            if self.documents + over == first:  # too long for any file, it has this one
                over += 1
            if over >= lengths.size:
                break
            before = int(ends[over - 1]) if over else self.num_bytes
            self.starts.append((self.documents + over, before))
        self.documents += lengths.size
        self.num_bytes = int(ends[-1])

    def outputs(self, prefix: Path) -> list[OutputFile]:
        """The files; a single one keeps the plain prefix."""
        bounds = [*self.starts, (self.documents, self.num_bytes)]
        return [
            OutputFile(
                prefix=prefix
                if len(self.starts) == 1
                else prefix.with_name(f"{prefix.name}_{number:05d}"),
                temporary=temporary_bin(prefix, number),
                first=bounds[number][0],
                end=bounds[number + 1][0],
                num_bytes=bounds[number + 1][1] - bounds[number][1],
            )
            for number in range(len(self.starts))
        ]


def write_index(path: Path, lengths: NDArray[np.int32], dtype: np.dtype[np.generic]) -> None:
    """Write megatron-core's index of documents that lie one after another."""
    with atomic_write(path, "wb") as stream:
        stream.write(_HEADER.pack(b"MMIDIDX\x00\x00", 1, _CODES[dtype.name]))
        stream.write(struct.pack("<QQ", lengths.size, lengths.size + 1))
        stream.write(np.ascontiguousarray(lengths).data)
        before = 0
        for start in range(0, lengths.size, 1 << 20):
            piece = lengths[start : start + (1 << 20)]
            ends = before + np.cumsum(piece, dtype=np.int64)
            stream.write(((ends - piece) * dtype.itemsize).data)
            before = int(ends[-1])
        for start in range(0, lengths.size + 1, 1 << 20):
            numbers = np.arange(start, min(start + (1 << 20), lengths.size + 1), dtype=np.int64)
            stream.write(numbers.data)


class Concatenation:
    """A context: the ids of all parts in order, cut into output files; goes on after a kill.

    Args:
        folder: ``P.parts``.
        prefix: of the job.
        itemsize: bytes of one id.
        max_bytes: of one file.

    Attributes:
        cuts: between the output files.
    """

    def __init__(self, folder: Path, prefix: Path, itemsize: int, max_bytes: int) -> None:
        self.folder, self.prefix = folder, prefix
        self.cuts = Cuts(itemsize, max_bytes)
        self._lengths: list[NDArray[np.int32]] = []
        self._durable = self._copied = self._journal()  # bytes of all ids together
        self._stream: IO[bytes] | None = None  # the file that grows
        self._number = 0  # which of the output files it is
        self._here: list[tuple[int, Path]] = []  # parts whose ids are still there: end, path

    def __enter__(self) -> Concatenation:
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, record: PartRecord, *, is_fresh: bool = False) -> None:
        """Append the next part in shard order.

        Args:
            record: of the part.
            is_fresh: this command has just written it on this machine: its checksum, a third of the
                time that all this takes, is not computed again.

        Raises:
            DataError: the part is missing or altered, or what was copied before is.
        """
        if record.documents:
            path = check_part(self.folder, record, ".len")
            self._lengths.append(np.fromfile(path, dtype=np.int32))
            start = self.cuts.num_bytes
            self.cuts.add(self._lengths[-1])
            self._copy(record, start, is_fresh)
        if self._copied - self._durable >= _SYNC_BYTES:
            self._checkpoint()

    def finish(self) -> tuple[list[OutputFile], NDArray[np.int32]]:
        """Make all durable: the outputs' ids lie in their temporary files. Lengths: int32 [documents]."""
        self._checkpoint()
        if not self._lengths:
            return [], np.empty(0, dtype=np.int32)
        return self.cuts.outputs(self.prefix), np.concatenate(self._lengths)

    def _journal(self) -> int:
        try:
            return int(json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))["bytes"])
        except FileNotFoundError:
            return 0

    def _copy(self, record: PartRecord, start: int, is_fresh: bool) -> None:
        """Append a part's ids, which begin at byte ``start`` of all, where they are not copied yet."""
        end, path = self.cuts.num_bytes, part_path(self.folder, record.shard, ".bin")
        self._here.append((end, path))
        if end <= self._copied:
            return
        if not is_fresh:
            check_part(self.folder, record, ".bin")
        with open(path, "rb") as part:
            while self._copied < end:
                stream, room = self._open(end)
                at = self._copied - start
                count = os.sendfile(stream.fileno(), part.fileno(), at, min(room, _COPY_BYTES))
                if count == 0:
                    raise OSError(f"{path} ended at byte {at}")
                self._copied += count

    def _open(self, end: int) -> tuple[IO[bytes], int]:
        """The file that the next byte goes to, and how many up to byte ``end`` of all fit into it."""
        starts = [first_byte for _, first_byte in self.cuts.starts[self._number :]]
        ahead = int(np.searchsorted(starts, self._copied, side="right")) - 1
        if ahead and self._stream is not None:
            self._checkpoint()
            self._stream.close()
            self._stream = None
        self._number += ahead
        if self._stream is None:
            self._stream = self._open_at(self._copied - starts[ahead])
        following = starts[ahead + 1] if ahead + 1 < len(starts) else end
        return self._stream, min(end, following) - self._copied

    def _open_at(self, size: int) -> IO[bytes]:
        """The current file, cut to ``size`` bytes, which the journal says are on the disk."""
        path = temporary_bin(self.prefix, self._number)
        path.touch()
        if path.stat().st_size < size:
            raise DataError(
                f"{path} is shorter than {self.folder / JOURNAL} says; remove {self.folder} and "
                f"preprocess again."
            )
        stream = open(path, "r+b")  # noqa: SIM115
        stream.truncate(size)
        stream.seek(0, os.SEEK_END)
        return stream

    def _checkpoint(self) -> None:
        """Make the copy durable, say so, and let go of the parts that it replaces."""
        if self._stream is not None and self._copied > self._durable:
            os.fsync(self._stream.fileno())
            write_json(self.folder / JOURNAL, {"bytes": self._copied})
            self._durable = self._copied
        gone = [path for end, path in self._here if end <= self._durable]
        self._here = self._here[len(gone) :]
        with ThreadPoolExecutor(
            _UNLINK_THREADS
        ) as threads:  # the kernel frees their pages meanwhile
            list(threads.map(lambda path: path.unlink(missing_ok=True), gone))


class BackgroundConcatenation:
    """A context that concatenates in a thread of its own, while workers make the parts to come.

    Args:
        concatenation: what to do; nobody else may touch it before ``finish``.
    """

    def __init__(self, concatenation: Concatenation) -> None:
        self._concatenation = concatenation
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="merge")
        self._waiting: dict[int, tuple[PartRecord, bool]] = {}  # for parts before them
        self._next = 0
        self._last: Future[None] | None = None

    def __enter__(self) -> BackgroundConcatenation:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._concatenation.__exit__(*error)

    def add(self, record: PartRecord, *, is_fresh: bool) -> None:
        """Tell of a part that exists now; the order does not matter.

        Raises:
            DataError, OSError: what an earlier part met.
        """
        self._waiting[record.shard] = (record, is_fresh)
        while following := self._waiting.pop(self._next, None):
            self._last = self._thread.submit(self._follow, self._last, *following)
            self._next += 1
        if self._last is not None and self._last.done():
            self._last.result()

    def finish(self) -> tuple[list[OutputFile], NDArray[np.int32]]:
        """Wait for all parts (see ``Concatenation.finish``)."""
        if self._last is not None:
            self._last.result()
        return self._concatenation.finish()

    def _follow(self, before: Future[None] | None, record: PartRecord, is_fresh: bool) -> None:
        if before is not None:
            before.result()  # after an error nothing more is appended
        self._concatenation.add(record, is_fresh=is_fresh)


def temporary_bin(prefix: Path, number: int) -> Path:
    """Where the ids of an output file grow before they have their name."""
    return prefix.with_name(f".{prefix.name}.{number:05d}.bin.tmp")


def publish(
    outputs: Sequence[OutputFile], lengths: NDArray[np.int32], dtype: np.dtype[np.generic]
) -> None:
    """Give the outputs their names, ``.idx`` last: without it nobody reads the ``.bin``."""
    for output in outputs:
        prefix_path(output.prefix, ".json").unlink(missing_ok=True)
        prefix_path(output.prefix, ".idx").unlink(missing_ok=True)
        if output.temporary.exists():
            os.replace(output.temporary, prefix_path(output.prefix, ".bin"))
        fsync_folder(output.prefix.parent)
        write_index(prefix_path(output.prefix, ".idx"), lengths[output.first : output.end], dtype)
