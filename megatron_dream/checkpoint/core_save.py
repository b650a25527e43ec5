"""megatron-core's save, taken apart: plan, write, finish.

Its own order writes files between collectives, and a process that cannot write raises while the others
wait. In pieces: the plan and the finish are collectives, in which rank 0 alone writes three small
files whose faults are remembered; the tensors are written between the two, without any collective.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .. import device
from ..parallel import Ranks
from .agreement import attempt, first_fault
from .metadata import describe_file


def _sharded_strategy(ranks: Ranks) -> Any:
    from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelSaveStrategyWrapper,
    )

    strategy = get_default_save_sharded_strategy("torch_dist", 1)
    if ranks.dp_size * ranks.cp_size == 1:
        return strategy
    return FullyParallelSaveStrategyWrapper(strategy, ranks.dp_cp_group)


@contextlib.contextmanager
def _remembered() -> Iterator[list[str]]:
    """In here what rank 0 cannot write is added to the list instead of raised.

    The three writes: common.pt before the plan, .metadata and metadata.json in the finish.
    """
    from megatron.core.dist_checkpointing import serialization
    from megatron.core.dist_checkpointing.strategies.common import TorchCommonSaveStrategy
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    faults: list[str] = []

    def remembering(write: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> None:
            if fault := attempt(lambda: write(*arguments, **named)).fault:
                faults.append(fault)

        return call

    with contextlib.ExitStack() as stack:
        for owner, name, write in (
            (TorchCommonSaveStrategy, "save_common", _save_common),
            (FileSystemWriterAsync, "finish", FileSystemWriterAsync.finish),
            (serialization, "save_config", serialization.save_config),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, remembering(write))
        yield faults


def _save_common(_: Any, state: dict[str, Any], folder: str) -> None:
    """What megatron-core's does, through a stream: where torch opens the file, errors lose their number."""
    from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME

    if dist.get_rank() == 0:
        with open(Path(folder) / COMMON_STATE_FNAME, "wb") as stream:
            torch.save(state, stream)


class PlannedSave:
    """A save of which every process knows what it will write.

    Args:
        state: sharded state dict.
        folder: exists and is empty.
        ranks: this process's place.

    Attributes:
        fault: what rank 0 could not write, the same on every process; then nothing else is to be done.
    """

    def __init__(self, state: dict[str, Any], folder: Path, ranks: Ranks) -> None:
        from megatron.core import dist_checkpointing
        from megatron.core.dist_checkpointing.strategies import filesystem_async

        self.folder = folder
        # Its own queue between processes starts a manager, which costs seconds and imports the entry
        # module again; what was written is handed over inside this process.
        self._results: queue.Queue[Any] = queue.Queue()
        filesystem_async._results_queue = self._results
        with _remembered() as faults:
            self._request = dist_checkpointing.save(
                state,
                str(folder),
                sharded_strategy=_sharded_strategy(ranks),
                async_sharded_save=True,
            )
        self.fault = first_fault(faults[0] if faults else None)

    def _buckets(self) -> list[Any]:
        return [] if self._request.async_fn is None else list(self._request.async_fn_args[1])

    def total_bytes(self) -> int:
        """Of all processes' tensors and objects; every process calls this."""
        mine = 0
        for _, _, (objects, tensors) in self._buckets():
            mine += sum(data.getbuffer().nbytes for _, data in objects)
            mine += sum(tensor.numel() * tensor.element_size() for _, tensor in tensors)
        total = torch.tensor(mine, dtype=torch.int64, device=device.current_device())
        dist.all_reduce(total)
        return int(total)

    def staged(self) -> LocalWrite:
        """This process's part, copied to host memory where it is not there."""
        if self._request.async_fn is None:
            return LocalWrite(self.folder, [], [])
        buckets = self._request.preload_fn() if self._request.preload_fn else self._buckets()
        return LocalWrite(self.folder, buckets, self._request.async_fn.args[0])

    def finish(self, written: dict[int, Any]) -> str | None:
        """Write .metadata and metadata.json; the fault, if any, is the same on every process.

        Args:
            written: what this process's ``LocalWrite`` returned.
        """
        if self._request.async_fn is not None:
            self._results.put(written)
        with _remembered() as faults:
            for function in self._request.finalize_fns:
                function()
        return first_fault(faults[0] if faults else None)


class LocalWrite:
    """Writes one process's files; needs no other process.

    Args:
        folder: where to.
        buckets: of megatron-core's writer, one a file, tensors in host memory.
        transforms: its first argument.
    """

    def __init__(self, folder: Path, buckets: list[Any], transforms: Any) -> None:
        self.folder, self._buckets, self._transforms = folder, buckets, transforms

    def __call__(self) -> tuple[dict[int, Any], dict[str, dict[str, Any]]]:
        """Write and fsync all files, side by side.

        Returns:
            What megatron-core wants to know of them by number, and sizes and checksums by name.

        Raises:
            OSError: a file cannot be written; other errors of torch's writer.
        """
        found: dict[int, Any] = {}
        threads = [
            threading.Thread(target=self._write, args=(number, bucket, found), daemon=True)
            for number, bucket in enumerate(self._buckets)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in found.values():
            if isinstance(result, BaseException):
                raise result
        names = [name for _, name, _ in self._buckets]
        return found, {name: describe_file(self.folder, name) for name in names}

    def _write(self, number: int, bucket: Any, found: dict[int, Any]) -> None:
        from megatron.core.dist_checkpointing.strategies.filesystem_async import (
            FileSystemWriterAsync,
        )

        results: queue.Queue[Any] = queue.Queue()
        pending: queue.Queue[int] = queue.Queue()
        pending.put(number)
        try:
            FileSystemWriterAsync.write_preloaded_data(
                self._transforms, number, bucket, results, pending, use_fsync=True
            )
            found[number] = results.get_nowait()[1]
        except Exception as error:  # a thread's own would be lost
            found[number] = error
