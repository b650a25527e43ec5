"""What the loop calls: one object that holds the watchdog, signals, limits, accounts and alerts of a start.

``with Watch(config, writes=...) as watch`` from the command's first line; ``start`` when ranks are known;
``begin_run`` before the model is built; ``open`` before the first step; ``settle`` at the end of each.
A watch that was never started (tests, other programs' loops) does nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
import uuid
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
from ..log import RunLog, read_log
from . import environment
from .alerts import Alerts
from .board import Board
from .collector import Collector
from .ends import write_end
from .goodput import Ledger
from .restarts import record_start
from .signals import INTERRUPT, NONE, Signals
from .stragglers import Stragglers
from .time_limit import TimeLimit, asked_end, slurm_end
from .watchdog import Watchdog

_LOOK_SECONDS = 60.0  # between looks at disk, goodput and the checkpoint's age
_YOUNG_SECONDS = 3600.0  # a run so young has no goodput to speak of


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
        writes: whether there is a run folder to write to; False in a dry run.
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
        self._ledger: Ledger | None = None
        self._limit: TimeLimit | None = None
        self._collector = Collector(self.config.watch.gc_interval_steps if self._is_on else 0)
        self._stragglers: Stragglers | None = None
        self._hosts: list[str] = []
        self._step = 0
        self._step_began: float | None = None
        self._is_first_step = True
        self._looked = time.monotonic()
        self._last_save = time.monotonic()
        if self._is_on:
            environment.apply()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None and self.folder is not None and self.folder.is_dir():
            self._tell_end_of(error)
        self._collector.close()
        if self._dog is not None:
            self._dog.close()
        if self._alerts is not None:
            self._alerts.close()
        if self._signals is not None:
            self._signals.close()

    def start(self, ranks: Ranks) -> None:
        """Process groups are there: begin to watch this rank."""
        if not self._is_on:
            return
        self._ranks = ranks
        watch = self.config.watch
        launch, self._hosts = _meet(ranks)
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
        if fault := parallel.broadcast_object(fault):
            raise ConfigError(str(fault))

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
            job = os.environ.get("SLURM_JOB_ID")
            self._limit = TimeLimit(
                watch, self._began, slurm_end(), lambda: asked_end(job) if job else None
            )
            if self._limit.end is not None:
                log.say(f"time limit: {time.strftime('%F %T', time.localtime(self._limit.end))}")
            if self.folder is not None:
                self._ledger = Ledger(read_log(self.folder), time.time())
                log.listen(self._hear)
        self._collector.start()

    @property
    def start_facts(self) -> dict[str, Any]:
        """For the log's record of the start."""
        return {"began": round(self._began, 3), "job": os.environ.get("SLURM_JOB_ID")}

    @property
    def facts(self) -> dict[str, Any]:
        """For the log's records of steps."""
        return {"goodput": self._ledger.now().goodput} if self._ledger is not None else {}

    def enter(self, phase: str) -> None:
        """The loop comes to a phase (phases.py)."""
        if self._dog is not None:
            self._dog.enter(phase, self._step + 1)

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
        if phase == "save":
            self._last_save = time.monotonic()
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

        The votes of the ranks travel in one small all-reduce, put before the synchronisation that the
        end of a step is anyway.

        Args:
            step: finished updates.
            upcoming: what comes before there is another chance to stop: step, validation, save, export.

        Returns:
            On every rank alike why to stop; None: go on.
        """
        self._step = step
        if self._ranks is None:
            device.synchronize()
            return None
        vote = self._vote(upcoming)
        device.synchronize()
        wish, is_late = (int(value) for value in vote.tolist())
        self._note_step()
        return self._stop(wish, bool(is_late))

    def after_step(self) -> None:
        """What ranks do together now and then after a step."""
        if self._stragglers is None:
            return
        self._collector.step(self._step)
        if found := self._stragglers.step(self._step):
            self._say_slow(found)
        self._look()

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
        raised = self._dog.limits.first_step_took(seconds) if self._dog is not None else None
        if raised is not None and self._log is not None:
            self._log.say(
                f"the first step took {seconds:.0f} s, so watch.step_limit_seconds counts as {raised:.0f}"
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

    def _say_slow(self, found: Sequence[Any]) -> None:
        assert self._log is not None
        message = "; ".join(str(one) for one in found[:4])
        more = f"; {len(found) - 4} more" if len(found) > 4 else ""
        ranks = [vars(one) for one in found]
        self._log.event("straggler", self._step, message=message + more, ranks=ranks)
        self._log.say(f"slow: {message}{more}")

    def _hear(self, record: dict[str, Any]) -> None:
        """Take what the log was told into the account, and tell people of what they want to know."""
        if self._ledger is not None:
            self._ledger.add(record)
        event = record["event"]
        if event in ("fault", "straggler", "end", "stop") and self._alerts is not None:
            kind = str(record.get("kind", event))
            facts = {k: v for k, v in record.items() if k not in ("event", "message", "kind")}
            self._alerts.send(kind, str(record.get("message", event)), record["step"], facts=facts)

    def _look(self) -> None:
        """At what comes slowly: goodput, the disk, the last checkpoint's age."""
        now = time.monotonic()
        if self._ledger is None or self._alerts is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        alerts, account = self.config.alerts, self._ledger.now()
        share = account.goodput or 0.0
        if account.total > _YOUNG_SECONDS and share < alerts.low_goodput:
            self.alert("low_goodput", f"goodput is {share:.2f}", **account.parts())
        age = (now - self._last_save) / 60.0
        if alerts.old_checkpoint_minutes and age > alerts.old_checkpoint_minutes:
            self.alert("old_checkpoint", f"the last checkpoint is {age:.0f} minutes old")
        if alerts.disk_free_gib and self.folder is not None:
            free = shutil.disk_usage(self.folder).free / 2**30
            if free < alerts.disk_free_gib:
                self.alert("disk", f"{free:.1f} GiB are free at {self.folder}")

    def _on_hang(self, text: str, is_first: bool) -> None:
        """Called by the watchdog's reporter before the process ends."""
        line = " ".join(text.split())
        if is_first and self.folder is not None:
            write_end(self.folder, "hang", self._step, exit_codes.HANG, line)
        if is_first and self._alerts is not None:
            self._alerts.send("hang", line, self._step)
            self._alerts.close(self.config.watch.hang_grace_seconds / 4)
        if self._log is not None and self._ranks is not None and self._ranks.reports:
            self._log.listen(None)
            self._log.event("fault", self._step, kind="hang", message=line)

    def _tell_end_of(self, error: BaseException) -> None:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        code = exit_codes.INTERRUPTED if is_interrupt else exit_codes.FOUND
        if isinstance(error, UserError):
            code = error.exit_code
        message = f"{type(error).__name__}: {error}"[:2000]
        assert self.folder is not None
        reason = "interrupted" if is_interrupt else "error"
        if write_end(self.folder, reason, self._step, code, message) and not is_interrupt:
            self.alert("failure", message)


def process_began() -> float:
    """Epoch seconds at which this process was started; now, where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time()
    return time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _meet(ranks: Ranks) -> tuple[str, list[str]]:
    """A word that names this start on all ranks, and the ranks' hosts where they are needed.

    By the store that the process group was made with: no collective yet, which might hang unwatched.
    """
    store = dist.distributed_c10d._get_default_store()
    turn = store.add(f"watch/turn/{ranks.rank}", 1)  # the store may outlive a run (tests)
    store.set(f"watch/{turn}/host/{ranks.rank}", socket.gethostname())
    if ranks.rank == 0:
        store.set(f"watch/{turn}/launch", uuid.uuid4().hex[:12])
    launch = store.get(f"watch/{turn}/launch").decode()
    hosts = ["?"] * ranks.world_size
    if ranks.rank == 0 or ranks.reports:
        hosts = [
            store.get(f"watch/{turn}/host/{rank}").decode() for rank in range(ranks.world_size)
        ]
    return launch, hosts


def _tell_before(holder: Any, name: str, call: Any) -> None:
    """Have ``call()`` run before each call of the function ``holder.name``, if there is one."""
    function = getattr(holder, name, None)
    if function is None:
        return

    def told(*words: Any, **named: Any) -> Any:
        call()
        return function(*words, **named)

    setattr(holder, name, told)
