"""Seconds of a step by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .. import device


class Clock:
    """Runs from its making."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Within: the phase ``name``."""
        started = time.monotonic()
        yield
        device.synchronize()
        self.parts[name] = self.parts.get(name, 0.0) + time.monotonic() - started

    def total(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started
