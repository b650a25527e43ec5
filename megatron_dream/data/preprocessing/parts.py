"""Part files: what one shard became. The set of their records is the manifest of a job.

    P.parts/
      manifest.json        what the job is of (job.py)
      000012.bin           ids, one after another, in the final dtype
      000012.len           int32, ids of each document
      000012.rejects.jsonl records left out, where there are any
      000012.json          the record, written last: counts and checksums

A part exists when its record does. A kill before leaves files that the next run overwrites.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...files import fsync_folder, sha256_file, write_json


@dataclass
class PartRecord:
    """What ``NNNNNN.json`` says of one part.

    Attributes:
        shard: number in the plan.
        pieces: [input file, lines or rows] of every piece of the shard, in order.
        documents: written.
        tokens: written, EOD tokens included.
        empty: documents without ids, left out.
        rejected: records that are no documents.
        dropped: documents that a filter took out.
        read_bytes: of input.
        text_bytes: UTF-8 bytes of the documents written.
        filters: counters of the filter chain, to be merged.
        special_tokens: how often each special token's literal became its id.
        licences: [documents, tokens] by licence, where the corpus tells licences.
        seconds: by kind of work.
        sha256: of the part's files by ending.
    """

    shard: int
    pieces: list[tuple[int, int]] = field(default_factory=list)
    documents: int = 0
    tokens: int = 0
    empty: int = 0
    rejected: int = 0
    dropped: int = 0
    read_bytes: int = 0
    text_bytes: int = 0
    filters: dict[str, Any] = field(default_factory=dict)
    special_tokens: dict[str, int] = field(default_factory=dict)
    licences: dict[str, list[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


def add_licences(total: dict[str, list[int]], part: Mapping[str, Sequence[int]]) -> None:
    """Add counts by licence to those of ``total``."""
    for name, (documents, tokens) in part.items():
        count = total.setdefault(name, [0, 0])
        count[0] += documents
        count[1] += tokens


def part_path(folder: Path, shard: int, ending: str) -> Path:
    """File of one part."""
    return folder / f"{shard:06d}{ending}"


class PartWriter:
    """A context that writes one part; ``commit`` completes it, leaving without it removes the files.

    Args:
        folder: ``P.parts``.
        shard: number in the plan.
        dtype: of the ids on disk.
    """

    def __init__(self, folder: Path, shard: int, dtype: np.dtype[Any]) -> None:
        self.folder, self.shard, self.dtype = folder, shard, dtype
        self._streams: dict[str, IO[bytes]] = {}
        self._digests: dict[str, Any] = {}

    def __enter__(self) -> PartWriter:
        for ending in (".bin", ".len"):
            self._open(ending)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stream in self._streams.values():
            stream.close()
        for ending in self._streams:
            self._temporary(ending).unlink(missing_ok=True)

    def add(self, tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
        """Append documents: their ids one after the other, and how many each has."""
        self._write(".bin", np.ascontiguousarray(tokens.astype(self.dtype, copy=False)).data)
        self._write(".len", np.ascontiguousarray(lengths, dtype=np.int32).data)

    def reject(self, place: dict[str, Any]) -> None:
        """Note a record that was left out."""
        if ".rejects.jsonl" not in self._streams:
            self._open(".rejects.jsonl")
        self._write(".rejects.jsonl", json.dumps(place).encode() + b"\n")

    def commit(self, record: PartRecord) -> PartRecord:
        """Give the files their names and write the record, which makes the part exist."""
        for ending, stream in self._streams.items():
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            os.replace(self._temporary(ending), part_path(self.folder, self.shard, ending))
        if ".rejects.jsonl" not in self._streams:
            part_path(self.folder, self.shard, ".rejects.jsonl").unlink(missing_ok=True)
        done = dataclasses.replace(
            record, sha256={ending: d.hexdigest() for ending, d in self._digests.items()}
        )
        write_json(part_path(self.folder, self.shard, ".json"), dataclasses.asdict(done))
        return done

    def _open(self, ending: str) -> None:
        self._streams[ending] = open(self._temporary(ending), "wb")  # noqa: SIM115
        self._digests[ending] = hashlib.sha256()

    def _write(self, ending: str, data: Any) -> None:
        self._streams[ending].write(data)
        self._digests[ending].update(data)

    def _temporary(self, ending: str) -> Path:
        return self.folder / f".{self.shard:06d}{ending}.{os.getpid()}.tmp"


def read_part(folder: Path, shard: int) -> PartRecord | None:
    """The record of a part that exists, or None.

    Raises:
        DataError: it cannot be understood.
    """
    path = part_path(folder, shard, ".json")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["pieces"] = [(file, count) for file, count in values["pieces"]]
        return PartRecord(**values)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is no record of a part ({error}); remove it, and the shard is done again."
        ) from None


def finished_parts(folder: Path, num_shards: int) -> dict[int, PartRecord]:
    """Records of all parts that exist, by shard; one listing of the folder."""
    names = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    shards = [shard for shard in range(num_shards) if f"{shard:06d}.json" in names]
    records = {shard: read_part(folder, shard) for shard in shards}
    return {shard: record for shard, record in records.items() if record is not None}


def check_part(folder: Path, record: PartRecord, ending: str) -> Path:
    """Path of one file of a part whose checksum is right.

    Raises:
        DataError: the file is missing or altered.
    """
    path = part_path(folder, record.shard, ending)
    if not path.is_file() or sha256_file(path) != record.sha256[ending]:
        raise DataError(
            f"{path} is missing or altered; remove {record.shard:06d}.json beside it and run the "
            f"same command again, which makes this part anew."
        )
    return path


def sync_folder(folder: Path) -> None:
    """Make the names of finished parts durable."""
    fsync_folder(folder)
