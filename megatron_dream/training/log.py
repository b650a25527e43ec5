"""What a run tells: a progress bar or a plain line, JSON lines, TensorBoard, W&B.

Only the process that knows the loss speaks (``Ranks.reports``). JSON lines are the record that
``status`` and plots read: one object a line with ``event`` (start, step, validation, checkpoint,
straggler, fault, stop, end), ``step``, ``time``. A fault has ``kind`` and ``message``. A full
disk is told once and never ends a run.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config.schema import LoggingConfig
from ..errors import DataError, MissingDependencyError
from ..files import atomic_write
from .line_file import LineFile

LOG_FILE = "log.jsonl"
WANDB_ID = "wandb_id"  # file of the run folder


def read_log(run_folder: Path | str) -> list[dict[str, Any]]:
    """Records of a run's log; lines that a crash or a full disk cut off are left out.

    Raises:
        DataError: there is no log.
    """
    path = Path(run_folder) / LOG_FILE
    if not path.is_file():
        raise DataError(
            f"{run_folder} is no run folder: {LOG_FILE} is missing; name a run's folder"
        )
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and {"event", "step", "time"} <= record.keys():
            records.append(record)
    return records


def _tensorboard(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError(
            "logging.tensorboard is on, but tensorboard is not installed: pip install tensorboard"
        ) from None
    # What an earlier start reported of steps that are now done again is not shown twice.
    return SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)


def _wandb(project: str, folder: Path) -> Any:
    try:
        import wandb
    except ImportError:
        raise MissingDependencyError(
            "logging.wandb_project is set, but wandb is not installed: pip install wandb"
        ) from None
    run = wandb.init(
        project=project, name=folder.name, dir=str(folder), id=_wandb_id(folder), resume="allow"
    )
    # W&B's own step only grows, and it drops what a resumed run says of steps that it does again.
    wandb.define_metric("*", step_metric="step")
    return run


def _wandb_id(folder: Path) -> str:
    """The run's name at W&B, the same in all its starts."""
    path, new = folder / WANDB_ID, uuid.uuid4().hex[:12]
    if not path.is_file():
        try:
            with atomic_write(path) as stream:
                stream.write(new)
        except OSError:  # a full disk: the next start is another run at W&B
            return new
    return path.read_text(encoding="utf-8").strip()


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"


class RunLog:
    """Writes a run's log on the process that speaks, and nothing on the others.

    Args:
        folder: of the run; None: only a person is told, nothing is written (a trial).
        config: intervals and sinks.
        total_steps: for the time left.
        enabled: whether this process speaks.
        first_step: finished updates at the start.
    """

    def __init__(
        self,
        folder: Path | None,
        config: LoggingConfig,
        total_steps: int,
        *,
        enabled: bool,
        first_step: int = 0,
    ) -> None:
        self.config, self.total_steps, self.enabled = config, total_steps, enabled
        self._lines: LineFile | None = None
        self._board: Any = None
        self._wandb: Any = None
        self._bar: Any = None
        self._last_line = 0.0
        self._unrecorded = 0.0  # seconds of steps since the last record of one
        self._listener: Callable[[dict[str, Any]], None] | None = None
        if enabled and folder is not None:
            self._lines = self._open(folder)
            if config.tensorboard:
                self._board = _tensorboard(folder / "tensorboard", first_step)
            self._wandb = _wandb(config.wandb_project, folder) if config.wandb_project else None

    def _open(self, folder: Path) -> LineFile | None:
        """The JSON lines; None, and a word on it, where they cannot be opened."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return LineFile(folder / LOG_FILE)
        except OSError as error:
            self.say(f"{LOG_FILE} cannot be opened ({error}): the run goes on without it")
            return None

    def start_bar(self, first_step: int) -> None:
        """Show progress from ``first_step`` on, if there is a terminal."""
        if not self.enabled or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[line]}"),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._bar.add_task("train", total=self.total_steps, completed=first_step, line="")

    def event(self, event: str, step: int, **values: Any) -> None:
        """Append one record to the JSON lines."""
        record = {"event": event, "step": step, "time": round(time.time(), 3), **values}
        if self._lines is not None:
            self._append(step, record, self._lines)
        if self._listener is not None:  # of what the disk refused, too
            self._listener(record)

    def _append(self, step: int, record: dict[str, Any], lines: LineFile) -> None:
        num_lost = lines.num_lost
        is_there = lines.write(record)
        if not is_there and not num_lost:
            message = f"{LOG_FILE} cannot be written ({lines.fault}): the run goes on without it"
            self.say(message)
            if self._listener is not None:  # now: there may be room only after the run
                told = {"kind": "log_lost", "message": message}
                self._listener({"event": "fault", "step": step, "time": record["time"], **told})
        if is_there and num_lost:
            self.fault(
                step, "log_lost", f"{num_lost} records of {LOG_FILE} were lost: {lines.fault}"
            )

    def listen(self, listener: Callable[[dict[str, Any]], None] | None) -> None:
        """Have ``listener`` told of every record from now on; None: nobody."""
        self._listener = listener

    def fault(
        self, step: int, kind: str, message: str, *, is_said: bool = True, **facts: Any
    ) -> None:
        """Record a fault, and tell a person of it unless ``is_said`` is False."""
        self.event("fault", step, kind=kind, message=message, **facts)
        if is_said:
            self.say(message)

    def step(self, step: int, values: dict[str, Any], line: str | None = None) -> None:
        """Report a finished step.

        Args:
            step: its number, from 1.
            values: ``loss``, ``tokens_per_second``, ``seconds_left`` and more.
            line: for a person; None: loss, rate and gradient.
        """
        if not self.enabled:
            return
        self._unrecorded += values.get("seconds", 0.0)
        if step % self.config.interval == 0 or step == self.total_steps:
            seconds, self._unrecorded = round(self._unrecorded, 4), 0.0
            self.event("step", step, **values, seconds_since_record=seconds)
            self._scalars(step, values, "train")
        line = line or (
            f"loss {values['loss']:.4f}  {values['tokens_per_second']:,.0f} tok/s  "
            f"grad {values['grad_norm']:.3f}"
        )
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, line=line)
        elif (
            now - self._last_line >= self.config.plain_interval_seconds or step == self.total_steps
        ):
            self._last_line = now
            left = _duration(values["seconds_left"])
            self.say(f"step {step}/{self.total_steps}  {line}  left {left}")

    def validation(self, step: int, values: dict[str, Any], line: str | None = None) -> None:
        """Report a validation; ``line`` is for a person, None: cross-entropy, bound and accuracy."""
        if not self.enabled:
            return
        self.event("validation", step, **values)
        self._scalars(step, values, "valid")
        line = line or (
            f"masked CE {values['masked_cross_entropy']:.4f}  "
            f"bound {values['bound_per_token']:.4f} nats/token  accuracy {values['accuracy']:.3f}"
        )
        self.say(f"step {step}  validation: {line}")

    def say(self, line: str) -> None:
        """Print one line for a person."""
        if not self.enabled:
            return
        with contextlib.suppress(OSError):  # the job's own output may be on the disk that is full
            if self._bar is not None:
                self._bar.console.print(line, highlight=False)
            else:
                print(line, file=sys.stderr, flush=True)

    def _scalars(self, step: int, values: dict[str, Any], prefix: str) -> None:
        numbers = {
            f"{prefix}/{name}": value
            for name, value in values.items()
            if isinstance(value, (int, float))
        }
        if self._board is not None:
            try:
                for name, value in numbers.items():
                    self._board.add_scalar(name, value, step)
            except Exception as error:  # raised here for what its own thread could not write
                self._board = None
                self._sink_lost(step, "TensorBoard", error)
        if self._wandb is not None:
            try:
                self._wandb.log({**numbers, "step": step})
            except Exception as error:
                self._wandb = None
                self._sink_lost(step, "W&B", error)

    def _sink_lost(self, step: int, name: str, error: Exception) -> None:
        self.fault(step, "log_lost", f"{name} is left out from here on ({error!r})")

    def close(self) -> None:
        """Flush and close every sink."""
        if self._bar is not None:
            self._bar.stop()
        for end in (
            None if self._board is None else self._board.close,
            None if self._wandb is None else self._wandb.finish,
        ):
            if end is not None:
                with contextlib.suppress(OSError):
                    end()
        if self._lines is not None:
            self._lines.close()
