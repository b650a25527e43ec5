"""Messages on pipes: a length and so many bytes."""

from __future__ import annotations

import os
import struct

MAX_BYTES = 64 << 20


class Closed(Exception):
    """The other side is gone, or sends what is no message."""


def write_frame(descriptor: int, data: bytes) -> None:
    """Write one message.

    Raises:
        Closed: nobody reads.
        ValueError: it is longer than any reader takes.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"a message of {len(data)} bytes; {MAX_BYTES} is the most")
    view = memoryview(struct.pack("<I", len(data)) + data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise Closed(str(error)) from None


def read_frame(descriptor: int) -> bytes:
    """Read one message.

    Raises:
        Closed: there is none any more.
    """
    (length,) = struct.unpack("<I", _read(descriptor, 4))
    if length > MAX_BYTES:
        raise Closed("a message that is too long")
    return _read(descriptor, length)


def read_all(descriptor: int) -> bytes:
    """Everything in a file, from its beginning."""
    parts, place = [], 0
    while part := os.pread(descriptor, 1 << 20, place):
        parts.append(part)
        place += len(part)
    return b"".join(parts)


def _read(descriptor: int, length: int) -> bytes:
    parts = []
    while length:
        try:
            part = os.read(descriptor, min(length, 1 << 20))
        except OSError as error:
            raise Closed(str(error)) from None
        if not part:
            raise Closed("the other side has ended")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
