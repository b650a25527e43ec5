"""Writing a checkpoint so that a crash or a full disk at any moment leaves the one before it loadable.

Order: everything into ``.NAME.tmp`` (fsynced, with checksums), megatron_dream.json, rename to
``NAME``, fsync of the folder, then ``latest`` is replaced, then old checkpoints go. Nothing that
``latest`` names is ever touched. A save that fails on one process is given up on all.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..errors import CheckpointError
from ..files import atomic_write, fsync_folder
from ..parallel import Ranks, barrier
from .agreement import Done, ForkedWork, ThreadWork, Waiting, attempt, first_fault
from .core_save import PlannedSave
from .fp8_state import saved_history
from .metadata import LATEST, CheckpointMetadata, describe_file, list_files, write_metadata
from .room import Kept, free_bytes, make_room, remove_old, remove_unfinished
from .state import gather_weights, model_state, optimizer_state, sharding_options

DEFAULT_TIMEOUT_SECONDS = 1800.0


def step_folder(step: int) -> str:
    """Name of the checkpoint of a step."""
    return f"step_{step:08d}"


class SaveError(CheckpointError):
    """A checkpoint could not be written; raised on all processes alike, and nothing is left of it."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A complete checkpoint.

    Attributes:
        name: of its folder.
        step: of its metadata.
        num_bytes: of all its files.
        seconds: from the call of ``save`` to its end.
        stall_seconds: of those in which training waited.
    """

    name: str
    step: int
    num_bytes: int
    seconds: float
    stall_seconds: float


@dataclasses.dataclass
class _Pending:
    """A save that is under way."""

    name: str
    metadata: CheckpointMetadata
    planned: PlannedSave
    writing: Waiting
    started: float
    stall_seconds: float = 0.0


class CheckpointWriter:
    """Saves checkpoints into one folder, at once or in the background.

    Args:
        folder: holds the checkpoints and the file ``latest``.
        ranks: this process's place.
        keep_last: complete checkpoints to keep, at least 1.
        keep_every: checkpoints of steps that it divides are kept for good; 0: none are.
        asynchronous: write in a forked process while training goes on.
        moves_latest: point ``latest`` at what is saved and remove old checkpoints; False for a
            checkpoint that stands alone.
        timeout_seconds: for writing; a save that takes longer is given up.
    """

    def __init__(
        self,
        folder: Path | str,
        ranks: Ranks,
        *,
        keep_last: int = 2,
        keep_every: int = 0,
        asynchronous: bool = False,
        moves_latest: bool = True,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self.folder, self.ranks, self.moves_latest = Path(folder), ranks, moves_latest
        self.keep_last, self.asynchronous = max(1, keep_last), asynchronous
        self.keep_every = keep_every
        self.is_read: Callable[[], set[str]] = set  # names of checkpoints that must stay for now
        self.on_wait: Callable[[], None] = lambda: None  # told that all processes still answer
        self.timeout_seconds = timeout_seconds
        self._pending: _Pending | None = None

    def save(
        self,
        name: str,
        chunks: list[Any],
        metadata: CheckpointMetadata,
        *,
        optimizer: Any = None,
        scheduler: Any = None,
    ) -> Saved | None:
        """Save model, and optimizer and scheduler where given, as ``folder/name``.

        ``metadata.files`` is filled here. Every process calls this.

        Returns:
            What is complete now; None, if asynchronous: what is written no longer depends on the
            model's tensors, and ``finish`` tells when it is complete.

        Raises:
            SaveError: on every process; also of the asynchronous save before, if it failed.
        """
        self.finish(wait=True)
        started = time.monotonic()
        self._on_rank_0(name, lambda: self._begin(name))
        state = self._state(chunks, metadata, optimizer, scheduler)
        planned = PlannedSave(state, self._temporary(name), self.ranks)
        if planned.fault:
            self._give_up(name, planned.fault)
        needed = planned.total_bytes()
        self._on_rank_0(name, lambda: self._check_room(needed))
        write = planned.staged()
        work = ForkedWork(write) if self.asynchronous else ThreadWork(write)
        waiting = Waiting(work, self.timeout_seconds, self.on_wait)
        self._pending = _Pending(name, metadata, planned, waiting, started)
        if not self.asynchronous:
            return self.finish(wait=True)
        self._pending.stall_seconds = time.monotonic() - started
        return None

    def finish(self, wait: bool = False) -> Saved | None:
        """Complete the save that is under way, if it is written or ``wait``; every process calls this.

        Raises:
            SaveError: it failed.
        """
        pending = self._pending
        if pending is None:
            return None
        looked = time.monotonic()
        outcome = pending.writing.wait() if wait else pending.writing.look()
        if outcome is None:
            return None
        self._pending = None
        if outcome.fault:
            self._give_up(pending.name, outcome.fault)
        written, described = outcome.value
        if fault := pending.planned.finish(written):
            self._give_up(pending.name, fault)
        num_bytes = self._publish(pending, described)
        now = time.monotonic()
        # A synchronous save has stalled all the time, an asynchronous one at both ends.
        stall = pending.stall_seconds + now - looked if self.asynchronous else now - pending.started
        return Saved(pending.name, pending.metadata.step, num_bytes, now - pending.started, stall)

    def close(self) -> None:
        """End a background save that nobody waits for any more; needs no other process."""
        if self._pending is not None:
            self._pending.writing.abandon()
            self._pending = None

    def remove_unfinished(self) -> None:
        """Remove what a killed run left half written; every process calls this."""
        if self.ranks.rank == 0:
            attempt(lambda: remove_unfinished(self.folder))
        barrier()

    def _temporary(self, name: str) -> Path:
        return self.folder / f".{name}.tmp"

    def _begin(self, name: str) -> str | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary(name)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        return None

    def _check_room(self, needed: int) -> str | None:
        if self.moves_latest:
            return make_room(self.folder, needed, self._kept())
        free = free_bytes(self.folder)
        return f"{needed:,} bytes do not fit into {free:,}" if free < needed else None

    def _on_rank_0(self, name: str, work: Callable[[], str | None]) -> None:
        """Let rank 0 do something; all give up where it fails or returns a sentence.

        To remove a checkpoint can take minutes, and a disk can hang: nobody waits in a collective.
        """
        mine = ThreadWork(work) if self.ranks.rank == 0 else Done()
        outcome = Waiting(mine, self.timeout_seconds, self.on_wait).wait()
        if found := outcome.fault or first_fault(outcome.value):
            self._give_up(name, found)

    def _give_up(self, name: str, fault: str) -> None:
        """Remove what there is of it and raise on every process."""
        if self.ranks.rank == 0:
            shutil.rmtree(self._temporary(name), ignore_errors=True)
        raise SaveError(f"checkpoint {self.folder / name} cannot be written ({fault})")

    def remove_old(self) -> None:
        """Remove checkpoints that need not be kept any longer, if the disk lets it; rank 0 does."""
        if self.ranks.rank == 0 and (self.folder / LATEST).is_file():
            attempt(lambda: remove_old(self.folder, self._kept()))

    def _kept(self) -> Kept:
        return Kept(self.keep_last, self.keep_every, frozenset(self.is_read()))

    def _state(
        self, chunks: list[Any], metadata: CheckpointMetadata, optimizer: Any, scheduler: Any
    ) -> dict[str, Any]:
        options = sharding_options(metadata.optimizer_format or "fully_reshardable", self.ranks)
        gather_weights(chunks)
        state = model_state(chunks, options)
        if optimizer is not None:
            state["optimizer"] = optimizer_state(optimizer, state, options)
        if scheduler is not None:
            state["scheduler"] = scheduler.state_dict()
        if optimizer is not None and (history := saved_history(chunks, self.ranks)):
            state["fp8"] = history
        return state

    def _publish(self, pending: _Pending, described: dict[str, dict[str, Any]]) -> int:
        """Give the folder its name; the number of its bytes."""
        gathered: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(gathered, described)
        files = {name: entry for part in gathered for name, entry in part.items()}

        def publish() -> dict[str, dict[str, Any]]:
            return self._publish_files(pending, files)

        # Retention can take minutes on a parallel file system: nobody waits for it in a collective.
        work = ThreadWork(publish) if self.ranks.rank == 0 else Done(files)
        outcome = Waiting(work, self.timeout_seconds, self.on_wait).wait()
        if outcome.fault:
            self._give_up(pending.name, outcome.fault)
        return sum(entry["bytes"] for entry in outcome.value.values())

    def _publish_files(
        self, pending: _Pending, files: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        temporary, target = self._temporary(pending.name), self.folder / pending.name
        small = {
            name: describe_file(temporary, name)
            for name in list_files(temporary)
            if name not in files
        }
        _fsync_files(temporary, list(small))
        complete = {**files, **small}
        _publish_folder(temporary, target, dataclasses.replace(pending.metadata, files=complete))
        if self.moves_latest:
            point_latest(target)
            attempt(lambda: remove_old(self.folder, self._kept()))  # it is saved all the same
        return complete


def _fsync_files(folder: Path, names: list[str]) -> None:
    for name in names:
        descriptor = os.open(folder / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _publish_folder(temporary: Path, target: Path, metadata: CheckpointMetadata) -> None:
    """Complete ``temporary`` and give it its name."""
    fsync_folder(temporary)
    write_metadata(temporary, metadata)
    if target.exists():  # an earlier save of the same step
        retired = target.with_name(f".{target.name}.old")
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(target, retired)
        os.replace(temporary, target)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        os.replace(temporary, target)
    fsync_folder(target.parent)


def point_latest(target: Path) -> None:
    """Make ``latest`` name a checkpoint."""
    with atomic_write(target.parent / LATEST) as stream:
        stream.write(f"{target.name}\n")
