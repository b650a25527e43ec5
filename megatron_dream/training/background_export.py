"""Hugging Face folders of a run's checkpoints, written by a process beside the training.

Rank 0 starts one at a time; no rank waits. It reads a finished checkpoint, which stays until then, and its
failure is a line in the log, not the run's end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..checkpoint.choose import LEFT
from ..checkpoint.metadata import FILE_NAME
from ..checkpoint.room import STEP_FOLDER, set_aside
from ..checkpoint.save import step_folder
from ..data.signals import ignore_run_signals
from ..errors import UserError
from ..launcher import VARIABLES

_NICENESS = 10
_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


class BackgroundExports:
    """Exports of one run, one after another.

    Args:
        run_folder: of the run; folders go to its ``exports``.
        tokenizer: the run's.
        report: is told what went wrong.
    """

    def __init__(
        self, run_folder: Path | str, tokenizer: str, report: Callable[[str], object]
    ) -> None:
        self.checkpoints = Path(run_folder) / "checkpoints"
        self.folder = Path(run_folder) / "exports"
        self.tokenizer, self.report = tokenizer, report
        self._waiting: str | None = None
        self._running: tuple[str, subprocess.Popen[bytes]] | None = None

    def names(self) -> set[str]:
        """Checkpoints that are read, or will be."""
        running = {self._running[0]} if self._running else set()
        return running | ({self._waiting} if self._waiting else set())

    def ask(self, name: str) -> None:
        """Export the checkpoint ``name`` once it is complete; one that still waits gives way to it."""
        if self._waiting is not None and self._waiting != name:
            self.report(
                f"{self._waiting} is not exported: {name} came before its checkpoint was complete and the "
                f"export before it was done; raise checkpoint.export_interval"
            )
        self._waiting = name
        self.tend()

    def tend(self, seconds: float = 0.0) -> bool:
        """See to an export that has ended, begin the next one.

        Args:
            seconds: to wait for one that is running.

        Returns:
            Whether nothing is running.
        """
        if self._running is not None:
            name, process = self._running
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            if process.returncode is None:
                return False
            self._running = None
            self._conclude(name, process.returncode)
        if self._waiting and (self.checkpoints / self._waiting / FILE_NAME).is_file():
            name, self._waiting = self._waiting, None
            try:
                self._begin(name)
            except OSError as error:  # raised here it would leave the other ranks waiting
                self.report(f"export of {name} cannot begin ({error}): the run goes on without it")
        return self._running is None

    def leave(self, step: int) -> None:
        """The run goes on from ``step``: what was made of later checkpoints is of weights that it left.

        Their exports become ``NAME.left``; one that runs is ended, one that waits forgotten.
        """
        from ..hf.export import is_export

        if self._waiting and self._waiting > step_folder(step):
            self._waiting = None
        if self._running is not None and self._running[0] > step_folder(step):
            self._end_running()
        later = [
            path for path in sorted(self.folder.glob("step_*")) if path.name > step_folder(step)
        ]
        for folder in later:
            if STEP_FOLDER.fullmatch(folder.name) and is_export(folder):
                try:
                    set_aside(folder, LEFT)
                except OSError as error:
                    self.report(f"{folder} is of weights that the run left, and stays ({error})")

    def close(self) -> None:
        """End what is running; what it has written so far is no export."""
        self._waiting = None
        if self._running is not None:
            self._end_running()

    def _end_running(self) -> None:
        assert self._running is not None
        _, process = self._running
        process.kill()
        process.wait()
        self._running = None
        self.clean()

    def clean(self) -> None:
        """Remove what a killed export left."""
        for left in self.folder.glob(".step_*.tmp"):
            shutil.rmtree(left, ignore_errors=True)

    def _begin(self, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
        environment.update(
            MEGATRON_DREAM_DEVICE="cpu", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1"
        )
        paths = (self.checkpoints / name, self.folder / name, self.tokenizer)
        command = [sys.executable, "-m", __name__, *map(str, paths)]
        with open(self._log_of(name), "wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._running = (name, process)

    def _conclude(self, name: str, code: int) -> None:
        log = self._log_of(name)
        lines: list[str] = []
        with contextlib.suppress(OSError):
            if code == 0:
                log.unlink(missing_ok=True)
            else:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if code == 0:
            return
        why = lines[-1] if lines else f"exit code {code}"
        self.report(f"export of {name} failed ({why}); all it wrote is in {log}")

    def _log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _export(checkpoint: str, target: str, tokenizer: str) -> int:
    """The process of one export; it ends with the run."""
    ignore_run_signals()
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    os.nice(_NICENESS)
    from ..hf import export_hf

    try:
        export_hf(checkpoint, target, tokenizer=tokenizer)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_export(*sys.argv[1:]))
