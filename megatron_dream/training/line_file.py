"""An append-only file of JSON lines that a full disk cannot break: a line is there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

_TAIL = 1 << 20  # bytes in which the last line's beginning is looked for


class LineFile:
    """Appends records; one process writes it.

    What cannot be written is counted and left out; nothing is raised after the file is open. A last
    line that a crash cut off is removed on opening.

    Args:
        path: of the file; its folder exists.

    Attributes:
        num_lost: records that could not be written since the last that could.
        fault: why not.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.num_lost, self.fault = 0, ""
        self._mend()

    def _mend(self) -> None:
        size = os.fstat(self._descriptor).st_size
        tail = os.pread(self._descriptor, _TAIL, max(0, size - _TAIL))
        if tail and not tail.endswith(b"\n"):
            os.ftruncate(self._descriptor, size - len(tail) + tail.rfind(b"\n") + 1)

    def write(self, record: dict[str, Any]) -> bool:
        """Append one record; whether it is there now. Numbers that are not finite become null."""
        line = (json.dumps(_finite(record), allow_nan=False) + "\n").encode()
        size = None
        try:
            size = os.fstat(self._descriptor).st_size
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(f"{written} of {len(line)} bytes were written")
        except OSError as error:
            self.num_lost, self.fault = self.num_lost + 1, str(error)
            if size is not None:  # half a line must not stand before the next
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, size)
            return False
        self.num_lost = 0
        return True

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def _finite(value: Any) -> Any:
    """The value as JSON knows it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value
