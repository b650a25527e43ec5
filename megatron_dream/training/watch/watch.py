"""What the loop calls: one object that holds the watchdog, signals, limits, accounts and alerts of a start.

``with Watch(config, writes=...) as watch`` from the command's first line; ``start`` when ranks are known;
``begin_run`` before the model is built; ``open`` before the first step; ``settle`` at the end of each.
A watch that was never started (tests, other programs' loops) does nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from ... import device, exit_codes, parallel
from ...config.schema import RunConfig
from ...errors import ConfigError, UserError
from ...parallel import Ranks
from ..log import RunLog
from . import environment
from .alerts import Alerts
from .board import Board
from .collector import Collector
from .ends import write_end, write_refusal
from .launch import meet, process_began
from .news import News
from .restarts import record_start
from .signals import INTERRUPT, NONE, Signals
from .stragglers import Stragglers
from .time_limit import TimeLimit, asked_end, job_name, slurm_end
from .watchdog import Watchdog


@dataclass(frozen=True)
class Stop:
    """Why all ranks end after this step."""

    reason: str  # signal, interrupted, time limit
    code: int
    message: str


class Watch:
    """See the module.

    Args:
        config: of the run; None: nothing is watched.
        writes: whether there is a run folder to write to; False in a trial.
    """

    def __init__(self, config: RunConfig | None = None, *, writes: bool = False) -> None:
        self.config = config or RunConfig()
        self.folder = Path(self.config.checkpoint.run_folder) if writes else None
        self.longest: dict[str, float] = {}  # seconds by kind: step, validation, save, export
        self._is_on = config is not None
        self._signals = Signals() if self._is_on and self.config.watch.catch_signals else None
        self._began = process_began()
        self._dog: Watchdog | None = None
        self._ranks: Ranks | None = None
        self._log: RunLog | None = None
        self._alerts: Alerts | None = None
        self._news: News | None = None
        self._limit: TimeLimit | None = None
        self._collector = Collector(self.config.watch.gc_interval_steps if self._is_on else 0)
        self._stragglers: Stragglers | None = None
        self._hosts: list[str] = []
        self._step = 0
        self._has_begun = False  # the start is on record
        self._step_began: float | None = None
        self._is_first_step = True
        if self._is_on:
            environment.apply()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        code = self._code_of(error) if error is not None else exit_codes.DONE
        if error is not None:
            self._tell_end_of(error, code)
        self._collector.close()
        if self._dog is not None:
            self._dog.close()
        if self._alerts is not None:
            self._alerts.close()
        if self._signals is not None:
            self._signals.close()
        if isinstance(error, Exception) and self._signals is not None and self._signals.wish:
            # What fails after the job was told to end (helpers that were killed) is put down to that.
            traceback.print_exception(error)
            raise SystemExit(code)

    def start(self, ranks: Ranks) -> None:
        """Process groups are there: begin to watch this rank."""
        if not self._is_on:
            return
        self._ranks = ranks
        watch = self.config.watch
        launch, self._hosts = meet(ranks)
        self._alerts = Alerts(self.config.alerts, Path(self.config.checkpoint.run_folder).name)
        self._stragglers = Stragglers(
            watch.straggler_interval_steps, watch.straggler_factor, ranks, self._hosts
        )
        board = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            board = Board(self.folder, ranks.rank, launch)
        self._dog = Watchdog(watch, ranks.rank, ranks.world_size, board, self.folder, self._on_hang)

    def begin_run(self, step: int, layout: str) -> None:
        """Write down that the run starts from ``step``; all ranks call this.

        Raises:
            ConfigError: it started there too often without progress; on every rank.
        """
        self._step = step
        if self.folder is None or self._ranks is None:
            return
        fault: Any = None
        if self._ranks.rank == 0:
            hosts = list(dict.fromkeys(self._hosts))
            try:
                record_start(
                    self.folder,
                    self.config,
                    step=step,
                    layout=layout,
                    hosts=hosts,
                    began=self._began,
                )
            except ConfigError as error:
                fault = str(error)
            except OSError as error:  # the others wait for word of this rank
                fault = f"{self.folder}: the start cannot be recorded ({error}); make room, check the rights"
        if fault := parallel.broadcast_object(fault):
            raise ConfigError(str(fault))
        self._has_begun = True

    def open(self, log: RunLog, model_config: Any) -> None:
        """Everything is there, steps come next.

        Args:
            log: of the run; what it is told is heard here.
            model_config: megatron-core's, whose hook tells when gradients are exchanged.
        """
        if self._ranks is None or self._stragglers is None:
            return
        self._log = log
        watch = self.config.watch
        _tell_before(model_config, "finalize_model_grads_func", self._stragglers.arrive)
        if self._ranks.reports:
            job = job_name()
            self._limit = TimeLimit(
                watch, self._began, slurm_end(), lambda: asked_end(job) if job else None
            )
            if self._limit.end is not None:
                log.say(f"time limit: {time.strftime('%F %T', time.localtime(self._limit.end))}")
            if self.folder is not None and self._alerts is not None:
                self._news = News(self.config.alerts, self.folder, log, self._alerts)
        self._collector.start()

    @property
    def start_facts(self) -> dict[str, Any]:
        """For the log's record of the start."""
        return {"began": round(self._began, 3), "job": os.environ.get("SLURM_JOB_ID")}

    @property
    def facts(self) -> dict[str, Any]:
        """For the log's records of steps."""
        return {"goodput": self._news.account().goodput} if self._news is not None else {}

    def enter(self, phase: str) -> None:
        """The loop comes to a phase (phases.py)."""
        if self._dog is not None:
            self._dog.enter(phase, self._step + 1)

    def goes_on(self) -> None:
        """All ranks answered in a wait that has a bound of its own: the phase's time begins anew."""
        if self._dog is not None:
            self.enter(self._dog.phase.name)

    def stands_at(self, step: int) -> None:
        """The run has gone back to a step."""
        self._step = step

    def elapsed(self) -> float:
        """Seconds since the phase began; 0 where nothing is watched."""
        return round(self._dog.phase.seconds(), 4) if self._dog is not None else 0.0

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Within: a phase between steps. A second Ctrl-C does not break it."""
        self.enter(phase)
        began = time.monotonic()
        if self._signals is not None:
            self._signals.is_saving = phase == "save"
        try:
            yield
        finally:
            if self._signals is not None:
                self._signals.is_saving = False
        self.took(phase, time.monotonic() - began)
        self.enter("step")

    def reading(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """``iterator``, whose every ``next`` is the phase ``data``."""
        while True:
            self.enter("data")
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if self._stragglers is not None:
                self._stragglers.data_seconds += time.perf_counter() - began
            self.enter("forward_backward")
            yield batch

    def begin_step(self) -> None:
        """A step begins."""
        self.enter("step")
        self._step_began = time.monotonic()

    def begin_compute(self) -> None:
        """The part of a step begins that a rank does by itself until gradients are exchanged."""
        self.enter("forward_backward")
        if self._stragglers is not None:
            self._stragglers.begin()

    def settle(self, step: int, upcoming: Sequence[str] = ("step",)) -> Stop | None:
        """End a step on the device, and agree whether all ranks are to stop after it.

        Args:
            step: finished updates.
            upcoming: see ``agree``.

        Returns:
            See ``agree``.
        """
        self._step = step
        stop = self.agree(upcoming)
        self._note_step()
        return stop

    def agree(self, upcoming: Sequence[str]) -> Stop | None:
        """Whether all ranks are to stop here.

        The votes of the ranks travel in one small all-reduce, put before the synchronisation that the
        end of a step is anyway.

        Args:
            upcoming: what comes before there is another chance: step, validation, save, export.

        Returns:
            On every rank alike why to stop; None: go on.
        """
        if self._ranks is None:
            device.synchronize()
            return None
        vote = self._vote(upcoming)
        device.synchronize()
        wish, is_late = (int(value) for value in vote.tolist())
        return self._stop(wish, bool(is_late))

    def after_step(self) -> None:
        """What ranks do together now and then after a step."""
        if self._stragglers is None:
            return
        self._collector.step(self._step)
        found = self._stragglers.step(self._step)
        if self._news is not None:
            self._news.look()
            if found:
                self._news.slow(found, self._step)

    def took(self, kind: str, seconds: float) -> None:
        """Note how long a step, validation, save or export took; the longest of each decides on stopping."""
        self.longest[kind] = max(self.longest.get(kind, 0.0), seconds)

    def alert(self, kind: str, message: str, **facts: Any) -> None:
        """Tell people, where there is somebody to tell; at once, and never with an error."""
        if self._alerts is not None:
            self._alerts.send(kind, message, self._step, **facts)

    def tell_end(self, reason: str, code: int, message: str) -> None:
        """Leave word for the next start, and for the script that decides about it."""
        if self.folder is not None:
            write_end(self.folder, reason, self._step, code, message)

    def _vote(self, upcoming: Sequence[str]) -> torch.Tensor:
        wish = NONE if self._signals is None else self._signals.wish
        is_late = False
        if self._limit is not None:
            seconds = sum(self.longest.get(name, 0.0) for name in upcoming)
            is_late = self._limit.is_reached(seconds, self.longest.get("save"))
        assert self._ranks is not None
        if self._ranks.world_size == 1:
            return torch.tensor([wish, is_late])
        vote = torch.tensor([wish, is_late], dtype=torch.int32, device=device.current_device())
        dist.all_reduce(vote, dist.ReduceOp.MAX)
        return vote

    def _note_step(self) -> None:
        if self._step_began is None:
            return
        seconds, self._step_began = time.monotonic() - self._step_began, None
        if not self._is_first_step:
            self.took("step", seconds)
            return
        self._is_first_step = False
        raised = self._dog.first_step_is_over() if self._dog is not None else None
        if raised is not None and self._log is not None:
            self._log.say(
                f"the first step had a phase of {raised / 4:.0f} s, so watch.step_limit_seconds counts as "
                f"{raised:.0f}"
            )

    def _stop(self, wish: int, is_late: bool) -> Stop | None:
        name = self._signals.name if self._signals is not None else ""
        by = f"{name or 'a signal'} came" if name else "a signal came to another rank"
        if wish == INTERRUPT:
            return Stop("interrupted", exit_codes.INTERRUPTED, by)
        if wish:
            return Stop("signal", exit_codes.AGAIN, by)
        if is_late:
            return Stop("time limit", exit_codes.AGAIN, "the time limit is near")
        return None

    def _on_hang(self, text: str, is_first: bool) -> None:
        """Called by the watchdog's reporter before the process ends."""
        line = " ".join(text.split())
        if is_first and self.folder is not None:
            write_end(self.folder, "hang", self._step, exit_codes.HANG, line)
        if is_first:
            self.alert("hang", line)
        if self._log is not None and self._ranks is not None and self._ranks.reports:
            self._log.listen(None)
            self._log.event("fault", self._step, kind="hang", message=line)
        if is_first and self._alerts is not None:
            self._alerts.close(self.config.watch.hang_grace_seconds / 4)

    def _code_of(self, error: BaseException) -> int:
        wish = NONE if self._signals is None else self._signals.wish
        if wish == INTERRUPT or isinstance(error, KeyboardInterrupt):
            return exit_codes.INTERRUPTED
        if wish:
            return exit_codes.AGAIN
        return error.exit_code if isinstance(error, UserError) else exit_codes.FOUND

    def _tell_end_of(self, error: BaseException, code: int) -> None:
        """Leave word of an error; one rank tells people too."""
        if self.folder is None or not self.folder.is_dir():
            return
        message = f"{type(error).__name__}: {error}"[:2000]
        if not self._has_begun:
            if self._ranks is None or self._ranks.rank == 0:
                write_refusal(self.folder, code, message)
                self.alert("failure", message)
            return
        reason = {exit_codes.INTERRUPTED: "interrupted", exit_codes.AGAIN: "signal"}.get(
            code, "error"
        )
        if write_end(self.folder, reason, self._step, code, message) and reason == "error":
            self.alert("failure", message)


def _tell_before(holder: Any, name: str, call: Any) -> None:
    """Have ``call()`` run before each call of the function ``holder.name``, if there is one."""
    function = getattr(holder, name, None)
    if function is None:
        return

    def told(*words: Any, **named: Any) -> Any:
        call()
        return function(*words, **named)

    setattr(holder, name, told)
