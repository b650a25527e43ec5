"""When the job ends, and whether there is time for another step before the last checkpoint.

Slurm says when: SLURM_JOB_END_TIME where the release sets it, else ``squeue`` or ``scontrol`` is asked.
One rank decides, and tells the others with the vote at the end of a step; so nobody else needs to know.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping

from ...config.schema import WatchConfig

_ASK_SECONDS = 10.0
_ASK_AGAIN = 300.0  # seconds between questions whether the limit was extended
_RESERVE = 0.25  # of a start's time: what is put aside at most for a save that was not measured


def slurm_end(environment: Mapping[str, str] = os.environ) -> float | None:
    """Epoch seconds at which Slurm ends this job; None: no job, no limit, or nobody can be asked."""
    if not (job := job_name(environment)):
        return None
    given = environment.get("SLURM_JOB_END_TIME", "")
    # 0 says that there is no limit; one that is over does not hold (OverTimeLimit, or was extended).
    if given.isdecimal() and int(given) > time.time():
        return float(given)
    return asked_end(job)


def job_name(environment: Mapping[str, str] = os.environ) -> str | None:
    """What Slurm calls this job; None: there is none.

    A task of an array goes by the array's number and its own: the number alone may be that of all tasks.
    """
    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID") or None


def asked_end(job: str) -> float | None:
    """What Slurm's programs say of a job's end (``job_name``)."""
    text = _output(["squeue", "-h", "-j", job, "-o", "%e"])
    if text is None:
        found = re.search(r"\bEndTime=(\S+)", _output(["scontrol", "show", "job", job]) or "")
        text = found[1] if found else None
    try:
        # Slurm prints local time without a zone; "Unknown", "N/A" and "NONE" where there is no limit.
        return datetime.datetime.fromisoformat((text or "").split("\n")[0].strip()).timestamp()
    except ValueError:
        return None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


class TimeLimit:
    """Decides whether the next step still fits.

    Args:
        config: a limit of its own, margin, and what a save takes before one was measured.
        began: epoch seconds at which this process began.
        end: epoch seconds, by Slurm; None: it knows none.
        ask: for the end once more, since limits can be extended; None where that is not known.
    """

    def __init__(
        self,
        config: WatchConfig,
        began: float,
        end: float | None,
        ask: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._margin = config.time_limit_margin_seconds
        self._unmeasured = config.unmeasured_save_seconds
        own = began + 60.0 * config.time_limit_minutes if config.time_limit_minutes else None
        self._own, self._slurm, self._ask, self._began = own, end, ask, began
        self._asked: float | None = None

    @property
    def end(self) -> float | None:
        """Epoch seconds; the earlier of both limits."""
        known = [end for end in (self._own, self._slurm) if end is not None]
        return min(known) if known else None

    def is_reached(self, upcoming: float, save: float | None) -> bool:
        """Whether to save now, because after what comes next it would be too late.

        Args:
            upcoming: seconds until there would be another chance: step, validation, saves.
            save: longest save so far, seconds; None: none was measured.
        """
        if self.end is None:
            return False
        reserve = self._margin + (self._unmeasured if save is None else save)
        if save is None:  # a job of five minutes is to do something too
            reserve = min(reserve, _RESERVE * (self.end - self._began))
        needed = upcoming + reserve
        if time.time() + needed < self.end:
            return False
        now = time.monotonic()
        if self._slurm is not None and (self._asked is None or now - self._asked > _ASK_AGAIN):
            self._asked = now
            self._slurm = self._ask() or self._slurm
        return time.time() + needed >= self.end
