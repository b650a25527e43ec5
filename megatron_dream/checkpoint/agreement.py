"""Work on files that may fail on one process alone, and the word of all processes on how it went.

megatron-core's save raises where a write fails, while the other processes wait for that one in a
collective. Here no process leaves between two collectives: what fails is remembered, and then all
processes are told. Long work runs beside the process, in a thread or a fork, while the processes ask
one another in short rounds whether they are done; so no collective waits longer than a round, however
slow a disk is, and all of them give up together when the time is over.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist

from .. import device
from ..data.signals import ignore_run_signals, signals_held
from ..sandbox.inside.kernel import die_with_parent

_ROUND_SECONDS = 0.02  # between two rounds of asking, growing to
_LONGEST_ROUND_SECONDS = 0.5


class Outcome(NamedTuple):
    """What came of some work: its value, or a sentence on why there is none."""

    value: Any
    fault: str | None


def attempt(work: Callable[[], Any]) -> Outcome:
    """Do it; an error of files or of torch's writers becomes a sentence."""
    try:
        return Outcome(work(), None)
    except Exception as error:
        cause = _cause(error)
        message = (str(cause).splitlines() or ["no message"])[0]
        return Outcome(None, f"{type(cause).__name__}: {message}")


def _cause(error: BaseException) -> BaseException:
    """The error of a file behind it, if there is one: torch's writer speaks of positions instead."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return found or error


def first_fault(fault: str | None) -> str | None:
    """The first process's fault that has one, with its rank, the same on all; every process calls this."""
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, fault)
    named = [f"rank {rank}: {text}" for rank, text in enumerate(found) if text]
    return named[0] if named else None


class Work(Protocol):
    """Something that goes on beside this process."""

    def look(self) -> Outcome | None:
        """Its outcome; None while it goes on."""

    def abandon(self) -> None:
        """Wait for it no longer."""


class Done:
    """Work that there is none of."""

    def __init__(self, value: Any = None) -> None:
        self._value = value

    def look(self) -> Outcome:
        """Its value."""
        return Outcome(self._value, None)

    def abandon(self) -> None:
        """Nothing to wait for."""


class ThreadWork:
    """Work in a thread of this process, which waits for it. It cannot be stopped, only left behind."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._outcome: Outcome | None = None
        # A daemon: a write that hangs on a dead disk must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        self._outcome = attempt(work)

    def look(self) -> Outcome | None:
        """Its outcome; None while it goes on."""
        return self._outcome

    def abandon(self) -> None:
        """Nothing can be done about a thread that hangs in a disk."""


class ForkedWork:
    """Work in a forked process, on the memory as it is now; the process goes on meanwhile.

    It ends with its parent, however that ends, and does not answer the run's signals.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        context = get_context("fork")
        self._answer, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_in_fork, args=(work, theirs, os.getpid()))
        with signals_held():
            self._process.start()
        theirs.close()
        atexit.register(self.abandon)  # multiprocessing would wait for it there

    def look(self) -> Outcome | None:
        """Its outcome; None while it goes on."""
        is_alive = self._process.is_alive()  # asked first: what it sent is there when it is dead
        if self._answer.poll():
            try:
                outcome = Outcome(*self._answer.recv())
            except EOFError:
                self._process.join()
                code = self._process.exitcode
                outcome = Outcome(None, f"the process that writes ended with code {code}")
            self.abandon()
            return outcome
        return None if is_alive else Outcome(None, "the process that writes left no word")

    def abandon(self) -> None:
        """Kill it."""
        atexit.unregister(self.abandon)
        if self._process.is_alive():
            self._process.kill()
        self._process.join(timeout=1.0)  # what hangs in a disk dies when the disk lets it


def _in_fork(work: Callable[[], Any], answer: Any, parent: int) -> None:
    ignore_run_signals()
    die_with_parent()
    if os.getppid() != parent:  # it died before that was set
        return
    answer.send(tuple(attempt(work)))


class Waiting:
    """The processes' common word on work that each of them has begun.

    Args:
        work: of this process.
        limit_seconds: from now on; then all give up.
        on_round: is called after each round of ``wait``: all processes answered.
    """

    def __init__(
        self, work: Work, limit_seconds: float, on_round: Callable[[], None] = lambda: None
    ) -> None:
        self._work, self._limit, self._on_round = work, limit_seconds, on_round
        self._end = time.monotonic() + limit_seconds
        self._outcome: Outcome | None = None

    def look(self) -> Outcome | None:
        """One round: this process's outcome once all have one, or the first fault; None before.

        Every process calls this.
        """
        self._outcome = self._outcome or self._work.look()
        mine = self._outcome
        if mine is None and time.monotonic() > self._end:
            mine = Outcome(None, f"not finished after {self._limit:.0f} seconds")
        is_running, is_failed = _any(mine is None, mine is not None and mine.fault is not None)
        if not is_failed:
            return None if is_running else self._outcome
        self._work.abandon()
        return Outcome(None, first_fault(mine.fault if mine else None))

    def wait(self) -> Outcome:
        """Rounds until there is a word; every process calls this."""
        pause = _ROUND_SECONDS
        while (outcome := self.look()) is None:
            self._on_round()
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_ROUND_SECONDS)
        return outcome

    def abandon(self) -> None:
        """Wait for this process's work no longer."""
        self._work.abandon()


def _any(*flags: bool) -> tuple[bool, ...]:
    """Each flag, whether it is set on any process."""
    shared = torch.tensor(flags, dtype=torch.int32, device=device.current_device())
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in shared.tolist())
