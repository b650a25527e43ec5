"""Parts to ``P.bin`` and ``P.idx``: concatenation in shard order, offsets from the lengths.

The index is megatron-core's (``MMIDIDX``, version 1): header, int32 length and int64 byte offset of
every document, int64 document ends. Bytes are copied by the kernel, and a part's ids go as soon as
their copy is on the disk, so that a merge needs little more room than its result: a journal says how
far it is, and a killed merge cuts its file back to there and goes on.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
_SYNC_BYTES = 1 << 30  # copied between two entries of the journal
_COPY_BYTES = 1 << 26  # asked of the kernel at once
_UNLINK_THREADS = 4
JOURNAL = "merge.json"


@dataclass(frozen=True)
class OutputFile:
    """One pair of token files and the documents that it holds, in input order.

    Attributes:
        prefix: path without ending.
        first: number of its first document.
        end: one past its last.
        num_bytes: of ``.bin``.
    """

    prefix: Path
    first: int
    end: int
    num_bytes: int


def plan_outputs(
    prefix: Path, lengths: NDArray[np.int32], itemsize: int, max_bytes: int
) -> list[OutputFile]:
    """Cut the documents into files of at most ``max_bytes``; one file keeps the plain prefix.

    A document is never cut: a longer one has a file of its own.
    """
    ends = np.cumsum(lengths, dtype=np.int64) * itemsize
    cuts = [0]
    while cuts[-1] < lengths.size:
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        fitting = int(np.searchsorted(ends, before + max_bytes, side="right"))
        cuts.append(min(max(fitting, cuts[-1] + 1), lengths.size))
    pairs = list(zip(cuts, cuts[1:], strict=False))
    single = len(pairs) == 1
    return [
        OutputFile(
            prefix if single else prefix.with_name(f"{prefix.name}_{number:05d}"),
            first,
            end,
            int(ends[end - 1]) - (int(ends[first - 1]) if first else 0),
        )
        for number, (first, end) in enumerate(pairs)
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
    """The ids of all parts in order, cut into output files; goes on after a kill.

    Args:
        folder: ``P.parts``.
        records: of all shards, in order.
        outputs: of ``plan_outputs``.
        itemsize: bytes of one id.
        report: called with the bytes copied since the last call.
        fresh: shards whose parts this command has just written on this machine: their checksums, a
            third of the time that all this takes, are not computed again.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[PartRecord],
        outputs: Sequence[OutputFile],
        itemsize: int,
        report: Callable[[int], None],
        fresh: Collection[int] = (),
    ) -> None:
        self.folder, self.records, self.outputs = folder, records, outputs
        self.fresh = frozenset(fresh)
        self.itemsize, self.report = itemsize, report
        self.sizes = [record.tokens * itemsize for record in records]

    def run(self) -> None:
        """Copy what is not copied yet; afterwards every output's ids lie in ``temporary_bin``."""
        done = self._journal()
        self.report(done)
        starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        position = 0
        for output in self.outputs:
            end = position + output.num_bytes
            if done < end:
                self._fill(output, starts, max(done, position), position, end)
                done = end
            position = end

    def _journal(self) -> int:
        """Bytes of all outputs together that are on the disk."""
        try:
            return int(json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))["bytes"])
        except FileNotFoundError:
            return 0

    def _fill(
        self, output: OutputFile, starts: NDArray[np.int64], at: int, first: int, end: int
    ) -> None:
        path = temporary_bin(output)
        path.touch()
        if path.stat().st_size < at - first:
            raise DataError(
                f"{path} is shorter than {self.folder / JOURNAL} says; remove {self.folder} and "
                f"preprocess again."
            )
        with open(path, "r+b") as stream:
            stream.truncate(at - first)
            stream.seek(0, os.SEEK_END)
            since = 0
            for shard, low, high in _overlaps(starts, at, end):
                since += self._copy(shard, low, high, stream)
                if since >= _SYNC_BYTES:
                    self._checkpoint(stream, starts, int(starts[shard]) + high)
                    since = 0
            self._checkpoint(stream, starts, end)

    def _copy(self, shard: int, low: int, high: int, stream: IO[bytes]) -> int:
        """Append bytes [low, high) of a part's ids."""
        path = part_path(self.folder, shard, ".bin")
        if shard not in self.fresh:
            check_part(self.folder, self.records[shard], ".bin")
        with open(path, "rb") as part:
            while low < high:
                count = os.sendfile(
                    stream.fileno(), part.fileno(), low, min(high - low, _COPY_BYTES)
                )
                if count == 0:
                    raise OSError(f"{path} ended at byte {low}")
                low += count
                self.report(count)
        return high

    def _checkpoint(self, stream: IO[bytes], starts: NDArray[np.int64], done: int) -> None:
        """Make the copy durable, say so, and let go of the parts that it replaces."""
        os.fsync(stream.fileno())
        write_json(self.folder / JOURNAL, {"bytes": done})
        finished = int(np.searchsorted(starts, done, side="right")) - 1
        gone = []
        for shard in range(finished - 1, -1, -1):
            path = part_path(self.folder, shard, ".bin")
            if self.sizes[shard] and not path.exists():
                break  # gone at an earlier checkpoint, and all before it
            gone.append(path)
        with ThreadPoolExecutor(
            _UNLINK_THREADS
        ) as threads:  # the kernel frees their pages meanwhile
            list(threads.map(lambda path: path.unlink(missing_ok=True), gone))


def _overlaps(starts: NDArray[np.int64], at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(shard, low, high): the bytes of each shard's ids that lie in [at, end) of all ids."""
    for shard in range(max(0, int(np.searchsorted(starts, at, side="right")) - 1), len(starts) - 1):
        low, high = max(at, int(starts[shard])), min(end, int(starts[shard + 1]))
        if int(starts[shard]) >= end:
            return
        if low < high:
            yield shard, low - int(starts[shard]), high - int(starts[shard])


def temporary_bin(output: OutputFile) -> Path:
    """Where an output's ids grow before they have their name."""
    return output.prefix.with_name(f".{output.prefix.name}.bin.tmp")


def read_lengths(folder: Path, records: Sequence[PartRecord]) -> NDArray[np.int32]:
    """Ids of every document of the job, int32 [documents], checked against the records."""
    parts = [
        np.fromfile(check_part(folder, record, ".len"), dtype=np.int32)
        for record in records
        if record.documents
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


def publish(
    outputs: Sequence[OutputFile], lengths: NDArray[np.int32], dtype: np.dtype[np.generic]
) -> None:
    """Give the outputs their names, ``.idx`` last: without it nobody reads the ``.bin``."""
    for output in outputs:
        prefix_path(output.prefix, ".json").unlink(missing_ok=True)
        prefix_path(output.prefix, ".idx").unlink(missing_ok=True)
        if temporary_bin(output).exists():
            os.replace(temporary_bin(output), prefix_path(output.prefix, ".bin"))
        fsync_folder(output.prefix.parent)
        write_index(prefix_path(output.prefix, ".idx"), lengths[output.first : output.end], dtype)
