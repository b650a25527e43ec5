"""The frames of a .zst file, found without decompressing: block headers are walked, or a table read.

Format: RFC 8878 (Zstandard), section 3.1; the table of the seekable format is in
contrib/seekable_format/zstd_seekable_compression_format.md of the zstd sources.
"""

from __future__ import annotations

import os
import struct
from typing import IO

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50  # to 0x184D2A5F
_SEEK_TABLE = 0x184D2A5E
_SEEK_FOOTER = 0x8F92EAB1
_RLE, _RESERVED = 1, 3  # kinds of blocks
_SMALL = 1 << 16


class FrameReader:
    """The bytes of one frame, handed out block by block; knows whether the frame ended.

    ``read`` serves zstandard's stream reader, which then never sees more than its frame.

    Args:
        stream: stands at the frame's first byte.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._has_checksum = False
        self.is_complete = False
        self.is_skippable = False  # metadata without content, passed already
        self.num_skipped = 0
        self._unread = self._header()
        self.consumed = self.num_skipped or len(self._unread)  # bytes of the frame so far

    def read(self, size: int = -1) -> bytes:
        """The next block with its header, whatever ``size``; empty at the frame's or file's end."""
        if self._unread:
            header, self._unread = self._unread, b""
            return header
        data = b"" if self.is_complete else self._block()
        self.consumed += len(data)
        return data

    def skip(self) -> None:
        """Run through the whole frame without reading its content."""
        while not self.is_complete and len(header := self._stream.read(3)) == 3:
            size = self._size_after(header)
            self._stream.seek(size, os.SEEK_CUR)
            self.consumed += 3 + size

    def _header(self) -> bytes:
        start = self._stream.read(4)
        if len(start) < 4:
            return start
        magic = int.from_bytes(start, "little")
        if magic & 0xFFFFFFF0 == _SKIPPABLE:
            return self._skippable(start)
        if magic != _MAGIC:
            raise ValueError("there is no zstd frame here")
        descriptor = self._stream.read(1)
        if not descriptor:
            return start
        flags = descriptor[0]
        is_single = bool(flags & 0x20)
        self._has_checksum = bool(flags & 0x04)
        dictionary = (0, 1, 2, 4)[flags & 3]
        content_size = (1 if is_single else 0, 2, 4, 8)[flags >> 6]
        rest = self._stream.read((0 if is_single else 1) + dictionary + content_size)
        return start + descriptor + rest

    def _skippable(self, start: bytes) -> bytes:
        self.is_skippable = True
        length = self._stream.read(4)
        size = int.from_bytes(length, "little")
        content = self._stream.read(min(size, _SMALL))
        if size > _SMALL:
            self._stream.seek(size - _SMALL, os.SEEK_CUR)
        self.is_complete = len(length) == 4 and len(content) == min(size, _SMALL)
        self.num_skipped = 8 + size
        return b""

    def _block(self) -> bytes:
        header = self._stream.read(3)
        if len(header) < 3:
            return header
        size = self._size_after(header)
        content = self._stream.read(size)
        self.is_complete &= len(content) == size
        return header + content

    def _size_after(self, header: bytes) -> int:
        """Bytes of the block behind its header, the frame's checksum included."""
        value = int.from_bytes(header, "little")
        is_last, kind, size = value & 1, value >> 1 & 3, value >> 3
        if kind == _RESERVED:
            raise ValueError("the zstd frame is damaged: a block of no known kind")
        stored = 1 if kind == _RLE else size
        if is_last:
            self.is_complete = True
            stored += 4 if self._has_checksum else 0
        return stored


def frame_offsets(stream: IO[bytes], *, walk: bool = True) -> list[int]:
    """Offsets at which frames with content begin, the first being 0.

    A damaged file gives what can be told: its reader names the damage.

    Args:
        stream: of the whole file, seekable.
        walk: whether block headers may be walked where there is no table; that touches every block
            of the file, so not over a network.
    """
    size = stream.seek(0, os.SEEK_END)
    if (offsets := _seek_table(stream, size)) is not None:
        return offsets
    return _walked(stream, size) if walk else [0]


def _walked(stream: IO[bytes], size: int) -> list[int]:
    offsets, position = [], 0
    while position < size:
        stream.seek(position)
        try:
            frame = FrameReader(stream)
            frame.skip()
        except ValueError:
            break
        if not frame.is_skippable:
            offsets.append(position)
        if not frame.is_complete:
            break
        position += frame.consumed
    return [0, *offsets[1:]]


def _seek_table(stream: IO[bytes], size: int) -> list[int] | None:
    if size < 17:
        return None
    stream.seek(size - 9)
    count, descriptor, magic = struct.unpack("<IBI", stream.read(9))
    entry = 12 if descriptor & 0x80 else 8
    start = size - 17 - count * entry
    if magic != _SEEK_FOOTER or start < 0:
        return None
    stream.seek(start)
    if struct.unpack("<II", stream.read(8)) != (_SEEK_TABLE, size - start - 8):
        return None
    table = stream.read(count * entry)
    lengths = [struct.unpack_from("<II", table, entry * i) for i in range(count)]
    if sum(packed for packed, _ in lengths) != start:
        return None
    offsets, position = [], 0
    for packed, content in lengths:
        if content:
            offsets.append(position)
        position += packed
    return [0, *offsets[1:]]
