"""What a rank is at, since when, and how long it may take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ...config.schema import WatchConfig

_STEP = ("step", "data", "forward_backward", "update")
_ROLLOUT = ("rollout", "judge", "old_log_probabilities")
_RAISE = 4.0  # times the longest phase of the first step: what one may take at least


@dataclass(frozen=True)
class Phase:
    """What a rank is at.

    Attributes:
        name: start, data, forward_backward, update, save, validation, rollback, rollout, end and the like.
        step: that is worked on, counted from 1.
        since: monotonic seconds.
        limit: seconds that it may take; 0: any time.
        number: phases entered before; grows for ever while there is progress.
    """

    name: str
    step: int = 0
    limit: float = 0.0
    number: int = 0
    since: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.since

    @property
    def is_over(self) -> bool:
        """Whether it took longer than it may."""
        return bool(self.limit) and self.seconds() > self.limit


class Limits:
    """How long each phase may take.

    A step that takes long by itself is no hang: after the first step no phase of a step has less than
    four times what the longest one took in the first.

    Args:
        config: the limits as given.
    """

    def __init__(self, config: WatchConfig) -> None:
        self._step = config.step_limit_seconds
        self._first = config.first_step_limit_seconds
        self._by_name = dict.fromkeys(_ROLLOUT, config.rollout_limit_seconds)
        for name in ("start", "rollback"):  # both read a checkpoint and open the data
            self._by_name[name] = config.start_limit_seconds
        self._by_name["validation"] = config.validation_limit_seconds
        for name in ("save", "export", "end"):
            self._by_name[name] = config.save_limit_seconds
        self._is_first, self._longest = True, 0.0

    def of(self, phase: str) -> float:
        """Seconds; 0: any time."""
        if phase not in _STEP:
            return self._by_name.get(phase, self._step)
        if self._is_first:
            return max(self._first, self._step) if self._first and self._step else 0.0
        return self._step

    def took(self, phase: str, seconds: float) -> None:
        """Note what a phase took."""
        if self._is_first and phase in _STEP:
            self._longest = max(self._longest, seconds)

    def first_step_is_over(self) -> float | None:
        """The new limit of a step's phases, where it had to be raised."""
        self._is_first = False
        if not self._step or _RAISE * self._longest <= self._step:
            return None
        self._step = _RAISE * self._longest
        return self._step
