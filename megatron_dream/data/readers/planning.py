"""Cutting inputs into shards: a function of the inputs alone, never of who will do the work.

Plain JSON Lines are cut by bytes, zstd of several frames by frames, Parquet by row groups, Arrow by
record batches; gzip and zstd of one frame cannot be cut. Small files share a shard.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from .files import InputFile
from .limits import Limits
from .storage import open_binary
from .tables import TableError, open_table
from .zst_frames import frame_offsets

logger = logging.getLogger(__name__)

SHARD_BYTES = 64 << 20
_LARGE = 10**9  # of a file that only one worker can read: worth a warning


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of one file.

    Attributes:
        file: its number in the list of files.
        start: bytes (JSON Lines), offset of a frame (zstd), or number of a row group or record batch.
        stop: one past the last, in the same unit; None is the file's end.
        num_bytes: as stored, about; for progress and for sharing out.
    """

    file: int
    start: int = 0
    stop: int | None = None
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of work.

    Attributes:
        index: its number; outputs keep this order.
        pieces: in input order.
    """

    index: int
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """As stored, about."""
        return sum(piece.num_bytes for piece in self.pieces)

    def identity(self) -> list[list[Any]]:
        """Plain values: another plan gives other parts."""
        return [[piece.file, piece.start, piece.stop] for piece in self.pieces]


def plan_shards(files: Sequence[InputFile], shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Shards of about ``shard_bytes`` stored bytes, in input order.

    Raises:
        DataError: ``shard_bytes`` is no positive number, or a file cannot be opened.
    """
    if shard_bytes < 1:
        raise DataError(f"A shard of {shard_bytes} bytes is none; give 1 or more.")
    groups: list[list[Piece]] = []
    room = 0
    for number, file in enumerate(files):
        for piece in _pieces(number, file, shard_bytes):
            if not groups or piece.num_bytes > room:
                groups.append([])
                room = shard_bytes
            groups[-1].append(piece)
            room -= piece.num_bytes
    return [Shard(index, tuple(pieces)) for index, pieces in enumerate(groups)]


def _pieces(number: int, file: InputFile, shard_bytes: int) -> Iterator[Piece]:
    if file.size <= shard_bytes or file.format == "text":
        yield Piece(number, num_bytes=file.size)
    elif file.format in ("parquet", "arrow"):
        yield from _of_groups(number, file, shard_bytes)
    elif file.compression is None:
        count = -(-file.size // shard_bytes)
        cuts = [file.size * i // count for i in range(count + 1)]
        for start, stop in zip(cuts, cuts[1:], strict=False):
            yield Piece(number, start, stop, stop - start)
    else:
        yield from _of_packed(number, file, shard_bytes)


def _of_packed(number: int, file: InputFile, shard_bytes: int) -> Iterator[Piece]:
    offsets = [0]
    if file.compression == "zst":
        try:
            with open_binary(file.path) as stream:
                offsets = frame_offsets(stream, walk=not file.is_remote)
        except OSError as error:
            raise DataError(f"{file.path} cannot be read: {error}; check it.") from error
    cuts = _grouped(offsets, file.size, shard_bytes)
    if len(cuts) == 2 and file.size > _LARGE:
        _warn_whole(file)
    for start, stop in zip(cuts, cuts[1:], strict=False):
        yield Piece(number, start, None if stop == file.size else stop, stop - start)


def _grouped(offsets: Sequence[int], end: int, shard_bytes: int) -> list[int]:
    """Some of ``offsets``, about ``shard_bytes`` apart, and the end."""
    cuts = [offsets[0]]
    for offset, following in zip(offsets, [*offsets[1:], end], strict=True):
        if following - cuts[-1] > shard_bytes and offset > cuts[-1]:
            cuts.append(offset)
    return [*cuts, end]


def _of_groups(number: int, file: InputFile, shard_bytes: int) -> Iterator[Piece]:
    sizes = _group_sizes(file)
    if len(sizes) < 2:
        yield Piece(number, num_bytes=file.size)
        return
    start = held = 0
    for group, size in enumerate(sizes):
        if held and held + size > shard_bytes:
            yield Piece(number, start, group, held)
            start, held = group, 0
        held += size
    yield Piece(number, start, len(sizes), held)


def _group_sizes(file: InputFile) -> list[int]:
    if file.format == "arrow" and file.is_remote:
        return []  # a stream has no table of contents: finding its batches would fetch it all
    try:
        with open_table(file, Limits()) as table:
            return table.sizes()
    except TableError as error:
        logger.warning("%s cannot be read: %s; it will be among the rejects.", file.path, error)
        return []


def _warn_whole(file: InputFile) -> None:
    stem, _, ending = file.path.rpartition(".")[0].rpartition(".")
    unpack = "zcat" if file.compression == "gz" else "zstdcat"
    logger.warning(
        "%s (%.1f GB) is one %s stream, which only one worker can read; `%s %s | split -C 256M "
        "--filter='zstd -c' - > %s.frames.%s.zst` makes it one that can be shared out.",
        file.path,
        file.size / 1e9,
        "gzip" if file.compression == "gz" else "zstd",
        unpack,
        file.path,
        stem,
        ending,
    )
