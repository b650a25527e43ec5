"""Writing a checkpoint so that a crash at any moment leaves the one before it loadable.

Order: everything into ``.NAME.tmp`` (fsynced), checksums, megatron_dream.json, rename to ``NAME``,
fsync of the folder, then ``latest`` is replaced, then old checkpoints go. Nothing that ``latest``
names is ever touched.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..data.signals import signals_held
from ..files import atomic_write, fsync_folder, write_json
from ..parallel import Ranks, barrier
from .metadata import FILE_NAME, LATEST, CheckpointMetadata, describe_file, list_files
from .state import model_state, optimizer_state, sharding_options

_STEP_FOLDER = re.compile(r"step_(\d{8})")


def step_folder(step: int) -> str:
    """Name of the checkpoint of a step."""
    return f"step_{step:08d}"


def _sharded_strategy(ranks: Ranks) -> Any:
    from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelSaveStrategyWrapper,
    )

    strategy = get_default_save_sharded_strategy("torch_dist", 1)
    if ranks.dp_size * ranks.cp_size == 1:
        return strategy
    return FullyParallelSaveStrategyWrapper(strategy, ranks.dp_cp_group)


class CheckpointWriter:
    """Saves checkpoints into one folder, at once or in the background.

    Args:
        folder: holds the checkpoints and the file ``latest``.
        ranks: this process's place.
        keep_last: complete checkpoints to keep, at least 1.
        asynchronous: write in a forked process while training goes on.
        moves_latest: point ``latest`` at what is saved and remove old checkpoints; False for a
            checkpoint that stands alone.
    """

    def __init__(
        self,
        folder: Path | str,
        ranks: Ranks,
        *,
        keep_last: int = 2,
        asynchronous: bool = False,
        moves_latest: bool = True,
    ) -> None:
        self.folder, self.ranks, self.moves_latest = Path(folder), ranks, moves_latest
        self.keep_last, self.asynchronous = max(1, keep_last), asynchronous
        self.longest_seconds = 0.0  # of a save, from its beginning until it was complete
        self._calls: Any = None
        if asynchronous:
            from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue

            self._calls = AsyncCallsQueue(persistent=False)

    def save(
        self,
        name: str,
        chunks: list[Any],
        metadata: CheckpointMetadata,
        *,
        optimizer: Any = None,
        scheduler: Any = None,
    ) -> None:
        """Save model, and optimizer and scheduler where given, as ``folder/name``.

        ``metadata.files`` is filled here. Every process calls this; it returns when the checkpoint
        is complete, or, if asynchronous, when its content no longer depends on the model's tensors.
        """
        self.finish(wait=True)
        began = time.monotonic()
        temporary = self.folder / f".{name}.tmp"
        if self.ranks.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        barrier()
        state = self._state(chunks, metadata, optimizer, scheduler)
        if not self.asynchronous:
            self._write(state, temporary)
            self._publish(temporary, name, metadata, began)
            return
        # Saver and queue begin with signals blocked: one that is sent to the whole job ends neither.
        with signals_held():
            request = self._write(state, temporary)
            request.add_finalize_fn(lambda: self._publish(temporary, name, metadata, began))
            self._calls.schedule_async_request(request)

    def finish(self, wait: bool = False) -> None:
        """Complete background saves that are done, or all of them; every process calls this."""
        if self._calls is not None:
            self._calls.maybe_finalize_async_calls(blocking=wait)

    def _state(
        self, chunks: list[Any], metadata: CheckpointMetadata, optimizer: Any, scheduler: Any
    ) -> dict[str, Any]:
        options = sharding_options(metadata.optimizer_format or "fully_reshardable", self.ranks)
        state = model_state(chunks, options)
        if optimizer is not None:
            state["optimizer"] = optimizer_state(optimizer, state, options)
        if scheduler is not None:
            state["scheduler"] = scheduler.state_dict()
        return state

    def _write(self, state: dict[str, Any], temporary: Path) -> Any:
        from megatron.core import dist_checkpointing
        from megatron.core.dist_checkpointing.strategies import filesystem_async

        if not self.asynchronous:
            # megatron-core's queue between processes starts a manager, which costs seconds and
            # imports the entry module again; the synchronous path stays inside this process.
            filesystem_async._results_queue = queue.Queue()
        elif isinstance(filesystem_async._results_queue, queue.Queue):
            filesystem_async._results_queue = None
        return dist_checkpointing.save(
            state,
            str(temporary),
            sharded_strategy=_sharded_strategy(self.ranks),
            async_sharded_save=self.asynchronous,
        )

    def _publish(
        self, temporary: Path, name: str, metadata: CheckpointMetadata, began: float
    ) -> None:
        barrier()
        names = list_files(temporary)
        mine = names[self.ranks.rank :: self.ranks.world_size]
        described = {file: describe_file(temporary, file) for file in mine}
        gathered: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(gathered, described)
        if self.ranks.rank == 0:
            files = {file: entry for part in gathered for file, entry in part.items()}
            target = self.folder / name
            _publish_folder(temporary, target, dataclasses.replace(metadata, files=files))
            if self.moves_latest:
                _point_latest(target)
                _remove_old(self.folder, self.keep_last)
        barrier()
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)


def _fsync_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _publish_folder(temporary: Path, target: Path, metadata: CheckpointMetadata) -> None:
    """Complete ``temporary`` and give it its name."""
    _fsync_files(temporary)
    write_json(temporary / FILE_NAME, dataclasses.asdict(metadata))
    if target.exists():  # an earlier save of the same step
        retired = target.with_name(f".{target.name}.old")
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(target, retired)
        os.replace(temporary, target)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        os.replace(temporary, target)
    fsync_folder(target.parent)


def _point_latest(target: Path) -> None:
    with atomic_write(target.parent / LATEST) as stream:
        stream.write(f"{target.name}\n")


def _remove_old(folder: Path, keep_last: int) -> None:
    """Remove all but the newest complete step checkpoints; the one ``latest`` names always stays."""
    latest = (folder / LATEST).read_text(encoding="utf-8").strip()
    complete = sorted(
        entry.name
        for entry in folder.iterdir()
        if _STEP_FOLDER.fullmatch(entry.name) and (entry / FILE_NAME).is_file()
    )
    for name in complete[:-keep_last]:
        if name != latest:
            # Renamed first: a crash while deleting must not leave a folder that looks complete.
            doomed = folder / f".{name}.old"
            shutil.rmtree(doomed, ignore_errors=True)
            os.replace(folder / name, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
