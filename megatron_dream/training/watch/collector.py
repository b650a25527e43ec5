"""Python's garbage collection, at the same step on all ranks.

Each rank would otherwise collect when its own count of objects says so, tens of milliseconds at a time,
while all others wait for it in the next collective: of 1,024 ranks there is one at nearly every step.
"""

from __future__ import annotations

import gc


class Collector:
    """Collects every ``interval`` steps and at no other time; 0 leaves Python to itself."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._was_enabled = gc.isenabled()

    def start(self) -> None:
        """Before the first step: what is there by now stays, and need not be looked through again."""
        if self.interval:
            gc.disable()
            gc.collect()
            gc.freeze()

    def step(self, step: int) -> None:
        """After a step, counted from 1."""
        if self.interval and step % self.interval == 0:
            gc.collect()

    def close(self) -> None:
        """As it was before."""
        if self.interval:
            gc.unfreeze()
            if self._was_enabled:
                gc.enable()
