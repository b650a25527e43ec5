"""Messages on pipes: a length and so many bytes."""

from __future__ import annotations

import os

MAX_BYTES = 64 << 20
_MOST = 8192  # of a message, usually; a larger buffer would be mapped and unmapped every time


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
    view = memoryview(len(data).to_bytes(4, "little") + data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise Closed(str(error)) from None


class Incoming:
    """Messages that come on a pipe; mostly one read each."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._left = b""

    def read(self) -> bytes:
        """The next message.

        Raises:
            Closed: there is none any more.
        """
        data = self._left or self._part(_MOST)
        while len(data) < 4:
            data += self._part(_MOST)
        length = int.from_bytes(data[:4], "little")
        if length > MAX_BYTES:
            raise Closed("a message that is too long")
        end, parts, found = 4 + length, [data], len(data)
        while found < end:
            parts.append(self._part(max(_MOST, min(end - found, 1 << 20))))
            found += len(parts[-1])
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._left = data[end:]
        return data[4:end]

    def _part(self, most: int) -> bytes:
        try:
            part = os.read(self._descriptor, most)
        except OSError as error:
            raise Closed(str(error)) from None
        if not part:
            raise Closed("the other side has ended")
        return part


def read_all(descriptor: int) -> bytes:
    """Everything in a file, from its beginning."""
    parts, place, most = [], 0, os.fstat(descriptor).st_size + 1
    while part := os.pread(descriptor, most, place):
        parts.append(part)
        place += len(part)
    return b"".join(parts)
