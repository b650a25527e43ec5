"""Seconds of a step by phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .. import device


class Clock:
    """Runs from its making.

    Args:
        enter: is told each phase's name when it begins.
    """

    def __init__(self, enter: Callable[[str], None] = lambda name: None) -> None:
        self._enter = enter
        self.parts: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Within: the phase ``name``."""
        self._enter(name)
        started = time.monotonic()
        yield
        device.synchronize()
        self.parts[name] = self.parts.get(name, 0.0) + time.monotonic() - started

    def total(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started
