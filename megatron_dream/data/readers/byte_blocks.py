"""A file's content as blocks of bytes: plain, gzip or zstd, whole or a range of it.

A block comes with a base: base + (offset in the content that this range gives) is the position that
documents are known by (see ``document.Document``).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Generator, Iterator
from typing import IO, Protocol

from .files import InputFile
from .limits import Limits
from .storage import import_package, open_binary
from .zst_frames import FrameReader

_BLOCK = 1 << 18  # stays in the processor's cache
_BORDER_BLOCK = 1 << 16  # read behind a range's stop, where only the end of one line is wanted
_FRAME_SHIFT = 36


class UnreadableError(Exception):
    """What follows in this file cannot be read; says why."""


class ByteBlocks(Protocol):
    """Content of one piece of a file.

    Attributes:
        bound: lines that begin behind this offset belong to the next piece.
        consumed: bytes of the file read so far.
    """

    bound: int
    consumed: int

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(base, block) in order.

        Raises:
            UnreadableError: the content is damaged from here on.
        """


def open_blocks(file: InputFile, start: int, stop: int | None, limits: Limits) -> ByteBlocks:
    """The blocks of a range of ``file``; start and stop count stored bytes, None is the end."""
    if file.compression == "gz":
        return _GzipBlocks(file.path, limits)
    if file.compression == "zst":
        return _ZstdBlocks(file.path, start, stop, limits)
    return _PlainBlocks(file.path, start, stop)


class _PlainBlocks:
    def __init__(self, path: str, start: int, stop: int | None) -> None:
        self.path, self.start = path, start
        self.bound = sys.maxsize if stop is None else stop
        self.consumed = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        with open_binary(self.path) as stream:
            stream.seek(self.start)
            while block := stream.read(self._wanted()):
                self.consumed += len(block)
                yield 0, block

    def _wanted(self) -> int:
        left = self.bound - self.start - self.consumed
        return min(_BLOCK, left) if left > 0 else _BORDER_BLOCK


class _RatioGuard:
    """Stops a stream that unpacks to far more than it should."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.produced = 0

    def add(self, num_bytes: int, consumed: int) -> None:
        self.produced += num_bytes
        ratio = self.limits.decompression_ratio
        if self.produced > max(self.limits.decompression_grace, ratio * consumed):
            raise UnreadableError(
                f"it unpacks to more than {ratio} times its size (limit decompression_ratio)"
            )


class _GzipBlocks:
    """All members of a gzip file, one after another."""

    def __init__(self, path: str, limits: Limits) -> None:
        self.path = path
        self.bound = sys.maxsize
        self.consumed = 0
        self._guard = _RatioGuard(limits)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        with open_binary(self.path) as stream:
            data = self._read(stream)
            while data:
                data = yield from self._member(stream, data)
                while data and not (data := data.lstrip(b"\0")):  # padding between members
                    data = self._read(stream)

    def _member(self, stream: IO[bytes], data: bytes) -> Generator[tuple[int, bytes], None, bytes]:
        """Blocks of one member; returns what was read behind it."""
        unpack = zlib.decompressobj(wbits=31)
        while not unpack.eof:
            if not data and not (data := self._read(stream)):
                raise UnreadableError("the gzip stream is cut off")
            try:
                block = unpack.decompress(data, _BLOCK)
            except zlib.error as error:
                raise UnreadableError(f"the gzip stream is damaged ({error})") from None
            data = unpack.unconsumed_tail
            if block:
                self._guard.add(len(block), self.consumed)
                yield 0, block
        return unpack.unused_data or self._read(stream)

    def _read(self, stream: IO[bytes]) -> bytes:
        data = stream.read(_BLOCK)
        self.consumed += len(data)
        return data


class _ZstdBlocks:
    """The frames of a zstd file that begin in a range, and what border lines need of the next."""

    def __init__(self, path: str, start: int, stop: int | None, limits: Limits) -> None:
        zstandard = import_package("zstandard", f"{path}: reading .zst")
        self.path, self.start = path, start
        self.stop = sys.maxsize if stop is None else stop
        self.bound = sys.maxsize  # known once the frame at ``stop`` is reached
        self.consumed = 0
        self._guard = _RatioGuard(limits)
        self._unpack = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._error: type[Exception] = zstandard.ZstdError

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        with open_binary(self.path) as stream:
            position = stream.seek(self.start)
            while (frame := self._open_frame(stream)).consumed:
                if not frame.is_skippable:
                    yield from self._frame(frame, position)
                elif not frame.is_complete:
                    raise UnreadableError("the zstd file is cut off")
                position += frame.consumed
                self.consumed = position - self.start

    def _open_frame(self, stream: IO[bytes]) -> FrameReader:
        try:
            return FrameReader(stream)
        except ValueError as error:
            raise UnreadableError(str(error)) from None

    def _frame(self, frame: FrameReader, position: int) -> Iterator[tuple[int, bytes]]:
        before = self._guard.produced
        if position >= self.stop:
            self.bound = min(self.bound, before)
        base = (position << _FRAME_SHIFT) - before
        for block in self._content(frame):
            self.consumed = position - self.start + frame.consumed
            self._guard.add(len(block), self.consumed)
            yield base, block
        if not frame.is_complete:
            raise UnreadableError("the zstd frame is cut off")

    def _content(self, frame: FrameReader) -> Iterator[bytes]:
        try:
            with self._unpack.stream_reader(frame, read_across_frames=False) as reader:
                while block := reader.read(_BLOCK):
                    yield block
        except (self._error, ValueError) as error:
            raise UnreadableError(f"the zstd frame is damaged ({error})") from None
