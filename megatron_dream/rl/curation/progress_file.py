"""Results of a long phase, one JSON line each as they come, so that a killed run loses only the last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any


class ProgressFile:
    """Appends lines, and gives back those that an earlier run has written whole.

    A line that was cut off by a kill is cut away.

    Attributes:
        lines: of earlier runs, in order.
    """

    def __init__(self, path: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        end = 0
        if path.exists():
            for line, stop in _whole_lines(path.read_bytes()):
                self.lines.append(line)
                end = stop
            os.truncate(path, end)
        self._stream = open(path, "ab")

    def add(self, line: dict[str, Any]) -> None:
        """Append one line; it is on its way to the disk when this returns."""
        self._stream.write(json.dumps(line).encode() + b"\n")
        self._stream.flush()

    def __enter__(self) -> ProgressFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.fsync(self._stream.fileno())
        self._stream.close()


def _whole_lines(data: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    start = 0
    while (stop := data.find(b"\n", start) + 1) > 0:
        try:
            line = json.loads(data[start:stop])
        except ValueError:
            return
        yield line, stop
        start = stop
