"""Saves that may fail: missed ones are told and counted, and the run goes on until there are too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...checkpoint.metadata import CheckpointMetadata
from ...checkpoint.save import CheckpointWriter, Saved, SaveError
from ...config.schema import RunConfig
from ...errors import CheckpointError
from ..log import RunLog


class SaveKeeper:
    """Saves a run's checkpoints; every method but ``close`` is called by every process.

    Args:
        config: of the run.
        writer: None in a trial, which saves nothing.
        log: of the run.

    Attributes:
        missed: saves that failed one after another.
        longest_seconds: of a save of this start, from its beginning until it was complete.
    """

    def __init__(self, config: RunConfig, writer: CheckpointWriter | None, log: RunLog) -> None:
        self._faults, self._writer, self._log = config.faults, writer, log
        self._folder = Path(config.checkpoint.run_folder) / "checkpoints"
        self.missed, self.longest_seconds = 0, 0.0

    def save(
        self,
        name: str,
        model: list[Any],
        metadata: CheckpointMetadata,
        optimizer: Any,
        scheduler: Any,
        *,
        is_last: bool,
    ) -> bool:
        """Begin a save; whether it is complete, or, if asynchronous, under way.

        Raises:
            CheckpointError: too many were missed, or ``is_last`` and this one was.
        """
        assert self._writer is not None
        self.look(metadata.step, wait=True)
        try:
            saved = self._writer.save(
                name, model, metadata, optimizer=optimizer, scheduler=scheduler
            )
            if is_last and saved is None:
                saved = self._writer.finish(wait=True)
        except SaveError as error:
            self._missed(metadata.step, error, is_last=is_last)
            return False
        self._done(saved)
        return True

    def look(self, step: int, wait: bool = False) -> bool:
        """Complete the save that is under way, if it is written or ``wait``; False where it failed.

        Raises:
            CheckpointError: too many were missed.
        """
        if self._writer is None:
            return True
        try:
            self._done(self._writer.finish(wait=wait))
        except SaveError as error:
            self._missed(step, error, is_last=False)
            return False
        return True

    def end(self, step: int) -> None:
        """Complete what is under way at the end of the run.

        Raises:
            CheckpointError: it failed, and what was learnt since the checkpoint before is lost.
        """
        if not self.look(step, wait=True):
            raise CheckpointError(
                f"the last checkpoint is missing in {self._folder}; make room and start the run again: "
                "it goes on from the one before"
            )

    def close(self) -> None:
        """End what is under way without waiting for anybody."""
        if self._writer is not None:
            self._writer.close()

    def _done(self, saved: Saved | None) -> None:
        if saved is None:
            return
        self.missed = 0
        self.longest_seconds = max(self.longest_seconds, saved.seconds)
        self._log.event(
            "checkpoint",
            saved.step,
            name=saved.name,
            seconds=round(saved.seconds, 3),
            stall_seconds=round(saved.stall_seconds, 3),
            bytes=saved.num_bytes,
        )
        if saved.seconds > self._faults.slow_save_seconds:
            rate = saved.num_bytes / saved.seconds / 1e6
            self._log.fault(
                saved.step,
                "slow_save",
                f"checkpoint {saved.name} took {saved.seconds:.0f} s ({rate:.1f} MB/s), more than "
                f"faults.slow_save_seconds {self._faults.slow_save_seconds:g}",
            )

    def _missed(self, step: int, error: SaveError, *, is_last: bool) -> None:
        self.missed += 1
        self._log.fault(
            step,
            "save_missed",
            f"{error}: the run goes on without it ({self.missed} missed in a row)",
        )
        if is_last:
            raise CheckpointError(
                f"{error}; it is the last of the run: make room and start the run again, it goes on from the "
                f"checkpoint before"
            )
        if self.missed > self._faults.max_missed_saves:
            raise CheckpointError(
                f"{error}; {self.missed} saves one after another failed (faults.max_missed_saves "
                f"{self._faults.max_missed_saves}): mend the disk of {self._folder}, then start the run "
                f"again: it goes on from its last checkpoint"
            )
