"""The Hugging Face exports of a run: rank 0 writes them beside the training, all ranks learn what failed."""

from __future__ import annotations

import time
from typing import Any

from .. import parallel
from ..checkpoint.room import complete_checkpoints
from ..checkpoint.save import CheckpointWriter
from ..config.schema import RunConfig
from ..parallel import Ranks
from .background_export import BackgroundExports
from .log import RunLog
from .watch.watch import Stop, Watch

_POLL_SECONDS = 5.0


class ExportKeeper:
    """Exports of the checkpoints whose steps ``checkpoint.export_interval`` divides.

    ``tell`` and ``finish`` are called by every process, the others by any.

    Args:
        config: of the run.
        writer: of its checkpoints; None in a trial, which exports nothing.
        log: of the run.
        ranks: this process's place.
        step: that the run goes on from; an export that the last start was stopped before is made up for.
    """

    def __init__(
        self,
        config: RunConfig,
        writer: CheckpointWriter | None,
        log: RunLog,
        ranks: Ranks,
        step: int,
    ) -> None:
        self._interval = config.checkpoint.export_interval if writer is not None else 0
        self._limit_minutes = config.faults.save_timeout_minutes
        self._writer, self._log = writer, log
        self._faults: list[str] = []
        self._exports: BackgroundExports | None = None
        if self._interval and writer is not None and ranks.rank == 0:
            self._exports = BackgroundExports(
                config.checkpoint.run_folder, str(config.tokenizer.path), self._faults.append
            )
            writer.is_read = self._exports.names
            self._exports.clean()
            self._exports.leave(step)
            self._make_up(step)

    def _make_up(self, step: int) -> None:
        """Ask for the newest checkpoint that is due and has no export."""
        assert self._exports is not None
        folder = self._exports.checkpoints
        names = complete_checkpoints(folder) if folder.is_dir() else []
        steps = {int(name.removeprefix("step_")): name for name in names}
        due = [number for number in steps if number <= step and number % self._interval == 0]
        if due and not (self._exports.folder / steps[max(due)]).exists():
            self._exports.ask(steps[max(due)])

    def saved(self, name: str, step: int, last_save: int) -> None:
        """A checkpoint is complete or under way: export it if one was due since ``last_save``."""
        if self._exports is not None and step // self._interval > last_save // self._interval:
            self._exports.ask(name)

    def gone_back(self, step: int) -> None:
        """The run goes on from ``step``; exports of what came after are set aside."""
        if self._exports is not None:
            self._exports.leave(step)

    def look(self) -> None:
        """See to an export that has ended, begin the next one."""
        if self._exports is not None:
            self._exports.tend()

    def tell(self, step: int) -> None:
        """Log what failed: rank 0 knows, and another may be the one that logs."""
        if not self._interval:
            return
        faults: Any = parallel.broadcast_object(self._faults)
        for message in faults:
            self._log.fault(step, "export_missed", message)
        self._faults.clear()

    def finish(self, step: int, watch: Watch) -> Stop | None:
        """Wait for the last ones, ``faults.save_timeout_minutes`` at most.

        No rank is longer in one collective than a look takes.

        Returns:
            Why all ranks are to stop before that; the next start makes the export.
        """
        if not self._interval or self._writer is None:
            return None
        end = time.monotonic() + 60.0 * self._limit_minutes
        while not parallel.broadcast_object(self._is_done(end)):
            watch.goes_on()
            if (stop := watch.agree(())) is not None:
                return stop
        self.tell(step)
        self._writer.remove_old()
        return None

    def _is_done(self, end: float) -> bool:
        if self._exports is None or self._exports.tend(_POLL_SECONDS):
            return True
        if time.monotonic() < end:
            return False
        self._faults.append(
            f"the last export is not finished after {self._limit_minutes:g} minutes "
            f"(faults.save_timeout_minutes) and given up; megatron-dream export-hf makes it"
        )
        self._exports.close()
        return True

    def close(self) -> None:
        """End an export that nobody waits for any more."""
        if self._exports is not None:
            self._exports.close()
