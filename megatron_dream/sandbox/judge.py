"""Many programs at once: threads, verdicts in order; ours has a slot for each and retries infrastructure."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from .engine import Isolation, SandboxUnavailable
from .outcome import Limits, Outcome, Verdict
from .problem import Problem
from .slot import Slot

RETRIES = 2  # of a judgement that says nothing of the program
_AHEAD = 4  # programs a worker that wait for it


class Judging:
    """Judges programs in threads; who judges one of them, a subclass says. Use it as a context.

    Args:
        workers: programs at once.
        limits: of each program.

    Attributes:
        notice: one sentence for people on how programs are shut in; empty where it is as it should be.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self.workers, self.limits, self.notice = workers, limits, ""
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="judge")

    def submit(self, program: str, problem: Problem) -> Future[Verdict]:
        """Judge one program in the background."""
        return self._threads.submit(self._judge, program, problem)

    def verdicts(self, programs: Iterable[tuple[str, Problem]]) -> Iterator[Verdict]:
        """Of all programs, in their order; few wait at a time, so that any number fits."""
        waiting: list[Future[Verdict]] = []
        for program, problem in programs:
            waiting.append(self.submit(program, problem))
            if len(waiting) > _AHEAD * self.workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()

    def close(self) -> None:
        """Finish what is being judged; what still waits for that is cancelled."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _judge(self, program: str, problem: Problem) -> Verdict:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Judge(Judging):
    """Judges programs against problems, shut in on this machine.

    Args:
        workers: programs at once; None: one for each CPU.
        limits: of each program.
        isolation: ``namespaces``, ``bubblewrap``, or ``process`` for programs that are trusted
            (docs/sandbox.md); None: namespaces, or bubblewrap where the system denies them and it works.

    Attributes:
        isolation: what it came to.
        notice: one sentence for people where that is not namespaces without having been asked for; else
            empty.

    Raises:
        SandboxUnavailable: programs cannot be shut in here.
    """

    def __init__(
        self,
        workers: int | None = None,
        limits: Limits | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        super().__init__(workers or len(os.sched_getaffinity(0)), limits or Limits())
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._all: list[Slot] = []
        self.isolation: Isolation = isolation or "namespaces"
        try:
            try:
                self._add_slot()
            except SandboxUnavailable as refusal:
                if isolation is not None or not refusal.is_denied or not self._falls_back():
                    raise
                self.notice = (
                    f"Namespaces are refused ({refusal.reason}); bubblewrap is used, which is slower and "
                    "keeps programs of one worker less apart (docs/sandbox.md)."
                )
            while len(self._all) < self.workers:
                self._add_slot()
        except BaseException:
            self.close()
            raise

    def _add_slot(self) -> None:
        slot = Slot(self.isolation, self.limits)
        self._all.append(slot)
        self._slots.put(slot)

    def _falls_back(self) -> bool:
        self.isolation = "bubblewrap"
        try:
            self._add_slot()
        except SandboxUnavailable:
            return False
        return True

    def close(self) -> None:
        """End the servers when what is being judged has been; what still waits for that is cancelled."""
        super().close()
        for slot in self._all:
            slot.close()

    def _judge(self, program: str, problem: Problem) -> Verdict:
        slot = self._slots.get()
        try:
            for _ in range(1 + RETRIES):
                verdict = slot.judge(program, problem)
                if verdict.outcome is not Outcome.INFRASTRUCTURE:
                    break
            return verdict
        finally:
            self._slots.put(slot)
