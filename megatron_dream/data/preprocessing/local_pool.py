"""Worker processes of one machine: each takes a shard, works alone, and answers with a small record.

The parent only deals and listens, so it never limits the workers. A leader, a process of its own,
loads the tokenizer once and then forks the workers, which share its memory: with 64 of them a
vocabulary is held once.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from ...errors import DataError, UserError
from ...memory import resident_bytes, trim_heap
from .dealing import Dealer
from .job import Job
from .parts import PartRecord

MAX_GROWTH = 64 << 20
_TRIM_GROWTH = 8 << 20  # by more than that, a worker gives back what it has freed
_GROWN = 75  # exit code of a worker that another one takes over from
_REPORT_SECONDS = 0.5
Report = Callable[[int, int, int], None]


@dataclass
class _Worker:
    pipe: Connection
    shard: int | None = None  # what it works on


class LocalPool:
    """A context: worker processes, which begin to load as soon as it is made.

    Args:
        tokenizer_path: what the workers will need.
        workers: processes.
        max_growth: bytes that a worker may grow by before another, forked anew, takes over: gigatoken
            remembers every word, and a long run would end with all memory.
    """

    def __init__(self, tokenizer_path: str, workers: int, max_growth: int = MAX_GROWTH) -> None:
        forks = _may_fork()
        context = get_context("fork") if forks else get_context("spawn")
        self._control, control = context.Pipe()
        pipes = [context.Pipe() for _ in range(workers)]
        self._workers = [_Worker(ours) for ours, _ in pipes]
        theirs = [end for _, end in pipes]
        # A forked leader has these too: open there, they would hide this process's end from workers.
        ours = [self._control, *(end for end, _ in pipes)] if forks else []
        self._leader = context.Process(
            target=_lead, args=(control, theirs, tokenizer_path, max_growth, ours)
        )
        self._leader.start()
        for end in (control, *theirs):
            end.close()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *error: object) -> None:
        for connection in (self._control, *(worker.pipe for worker in self._workers)):
            connection.close()  # workers end at the end of their shard
        if error[0] is not None and self._leader.pid is not None:
            self._leader.terminate()
        self._leader.join()

    def run(
        self,
        job: Job,
        dealer: Dealer,
        report: Report,
        finished: Callable[[PartRecord], None],
        listen: Callable[[], None] | None = None,
    ) -> None:
        """Work until the dealer has nothing left and every worker is idle.

        Args:
            job: what the shards are of.
            dealer: gives out shards.
            report: told documents, tokens and bytes as they are done.
            finished: told of every part that exists now.
            listen: called often, for messages from elsewhere.

        Raises:
            UserError: the first one of a worker.
            DataError: a worker died.
        """
        self._control.send(job)
        for worker in self._workers:
            self._deal(worker, dealer)
        while busy := [worker for worker in self._workers if worker.shard is not None]:
            pipes = {worker.pipe: worker for worker in busy}
            for pipe in wait(list(pipes), timeout=0.01 if listen else 1.0):
                self._answer(pipes[pipe], dealer, report, finished)  # type: ignore[index]
            if listen is not None:
                listen()

    def _deal(self, worker: _Worker, dealer: Dealer) -> None:
        worker.shard = dealer.next()
        if worker.shard is not None:
            try:
                worker.pipe.send(worker.shard)
            except OSError:
                raise _died(worker) from None

    def _answer(
        self,
        worker: _Worker,
        dealer: Dealer,
        report: Report,
        finished: Callable[[PartRecord], None],
    ) -> None:
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            raise _died(worker) from None
        if isinstance(answer, tuple):
            report(*answer)
        elif isinstance(answer, PartRecord):
            finished(answer)
            self._deal(worker, dealer)
        else:
            raise answer


def _may_fork() -> bool:
    """Whether the leader may be forked, which saves half a second.

    Not off a process that has threads of torch, which a fork would lose, and not from inside MPI.
    """
    return not {"torch", "mpi4py.MPI"} & set(sys.modules)


def _died(worker: _Worker) -> DataError:
    return DataError(
        f"the worker process of shard {worker.shard} died, most likely for want of memory; run the same "
        "command again with fewer --workers: it goes on."
    )


def _lead(
    control: Connection,
    pipes: Sequence[Connection],
    tokenizer_path: str,
    max_growth: int,
    inherited: Sequence[Connection],
) -> None:
    """The leader: load, wait for the job, keep workers at the pipes until they are done."""
    for end in inherited:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the workers are the parallelism
    from .shard_work import load_encoder_parts

    parts: Any
    try:
        parts = load_encoder_parts(tokenizer_path)
    except UserError as error:
        parts = error
    try:
        job = control.recv()
    except (EOFError, OSError):
        return
    control.close()
    gc.collect()
    trim_heap()
    gc.freeze()  # a collection in a worker would write to, and so copy, every page that it shares
    _Leader(pipes, job, parts, max_growth).run()


class _Leader:
    """Keeps a worker at each pipe until its work is done; starts another for one that has grown."""

    def __init__(self, pipes: Sequence[Connection], job: Job, parts: Any, max_growth: int) -> None:
        self._pipes, self._serving = pipes, partial(_serve, job, parts, max_growth)
        self._workers: dict[int, Connection] = {}  # by process id

    def run(self) -> None:
        """Until every worker has ended."""
        signal.signal(signal.SIGTERM, self._kill)
        for pipe in self._pipes:
            self._start(pipe)
        while self._workers:
            child, status = os.wait()
            pipe = self._workers.pop(child)
            if os.waitstatus_to_exitcode(status) == _GROWN:
                self._start(pipe)
            else:
                pipe.close()  # open here, it would hide from the parent that a worker died

    def _start(self, pipe: Connection) -> None:
        child = os.fork()
        if child:
            self._workers[child] = pipe
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for other in self._pipes:
            if other is not pipe and not other.closed:
                other.close()
        code = self._serving(pipe)
        sys.stderr.flush()
        os._exit(code)

    def _kill(self, *_: object) -> None:
        for child in list(self._workers):
            with contextlib.suppress(ProcessLookupError):  # it may have ended
                os.kill(child, signal.SIGKILL)


def _serve(job: Job, parts: Any, max_growth: int, pipe: Connection) -> int:
    """A worker: shard numbers in, reports and records or an error out, until the pipe closes.

    Returns:
        Exit code: 0, or ``_GROWN`` once it has grown so far that another shall take over.
    """
    from .shard_work import ShardWorker

    worker: ShardWorker | None = None
    reporter, held = _Reporter(pipe), resident_bytes()
    while True:
        try:
            shard = pipe.recv()
        except (EOFError, OSError):
            return 0
        answer: Any
        try:
            worker = worker or ShardWorker(job, parts)
            answer = worker.run(shard, reporter.add)
            reporter.flush()
        except UserError as error:
            answer = error
        except OSError as error:
            answer = _disk_error(error, job)
        except Exception:  # a bug: its trace must reach the terminal
            answer = RuntimeError(traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:
            return 0
        if resident_bytes() > held + _TRIM_GROWTH:
            trim_heap()
            if resident_bytes() > held + max_growth:
                return _GROWN


def _disk_error(error: OSError, job: Job) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DataError(
            f"{error.filename or job.parts}: {error.strerror or error}; mend it and run the same "
            f"command again: it goes on."
        )
    return DataError(
        f"{job.parts}: {error.strerror}; make room and run the same command again: it goes on from the "
        f"parts that are done."
    )


class _Reporter:
    """Adds up what is done and tells the parent twice a second."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._sums, self._last = pipe, [0, 0, 0], time.monotonic()

    def add(self, documents: int, tokens: int, num_bytes: int) -> None:
        for index, value in enumerate((documents, tokens, num_bytes)):
            self._sums[index] += value
        if time.monotonic() - self._last >= _REPORT_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._pipe.send(tuple(self._sums))
        self._sums, self._last = [0, 0, 0], time.monotonic()
