"""``data.loader: dali``: packed micro-batches through a pipeline of NVIDIA DALI.

Stands where torch's DataLoader stands in loader.py and gives the same buffers in the same order.
Reading is an external source: the dataset is called in this process, or, with
``data.num_workers``, in DALI's Python workers. What DALI adds is the copy to the GPU, made by its
own thread while the step before still computes. On a CPU the pipeline only hands buffers on.

DALI's exceptions are tracebacks as text. A user's error therefore travels as data, in a second
output of the pipeline, and comes out at its micro-batch's turn.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..device import current_stream
from ..errors import MissingDependencyError, UserError
from .signals import ignore_run_signals, signals_held

if TYPE_CHECKING:
    from .loader import PackedMicroBatches

Outputs = list[list[NDArray[np.uint8]]]  # buffer and error, each a batch of one array

_QUEUE_DEPTH = 2  # micro-batches that the pipeline holds ready
_PATIENCE_SECONDS = 2.0  # for a worker to end when its pipeline does
_PARENT_CHECK_SECONDS = 5.0
# In place of an output that is not used. One byte: no error's pickle is as short.
_NOTHING = np.zeros(1, dtype=np.uint8)


def import_dali() -> Any:
    """The module ``nvidia.dali``.

    Raises:
        MissingDependencyError: it or something it needs is not installed.
    """
    try:
        import nvidia.dali
        import nvidia.dali.fn
    except ImportError as error:
        raise MissingDependencyError(
            f"data.loader is dali, but NVIDIA DALI cannot be imported ({error}): pip install "
            f"'megatron-dream[dali]', or set data.loader to torch."
        ) from None
    return nvidia.dali


class _Source:
    """What the pipeline calls in this process: the outputs of micro-batch ``number``.

    DALI reads from the arrays themselves, so the last few are kept; in a worker they are copied.
    """

    def __init__(self, dataset: PackedMicroBatches, count: int) -> None:
        self.dataset, self.count = dataset, count
        self._alive: deque[Outputs] = deque(maxlen=2 * _QUEUE_DEPTH)

    def __call__(self, number: int) -> Outputs:
        outputs = self._outputs(number)
        self._alive.append(outputs)
        return outputs

    def _outputs(self, number: int) -> Outputs:
        if number >= self.count:  # the pipeline reads ahead of its end
            return [[_NOTHING], [_NOTHING]]
        found = self.dataset[number]
        if isinstance(found, UserError):
            return [[_NOTHING], [np.frombuffer(pickle.dumps(found), dtype=np.uint8)]]
        return [[found.numpy()], [_NOTHING]]


class _WorkerSource(_Source):
    """The same in a worker process, which leaves the run's signals alone and outlives no parent."""

    def __init__(self, dataset: PackedMicroBatches, count: int) -> None:
        super().__init__(dataset, count)
        self._parent, self._is_ready = os.getpid(), False

    def __call__(self, number: int) -> Outputs:
        if not self._is_ready:
            self._is_ready = True
            ignore_run_signals()  # they were blocked until now (signals_held)
            threading.Thread(target=self._end_with_parent, daemon=True).start()
        return self._outputs(number)

    def _end_with_parent(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(_PARENT_CHECK_SECONDS)
        os._exit(1)


class DaliFeed(Iterator[Any]):
    """Packed micro-batches 0 .. count - 1, in order, on ``device``.

    An item is a uint8 tensor [num_bytes], or the UserError that reading it met.

    Args:
        dataset: micro-batches by number.
        count: how many there are.
        device: where the buffers go.
        num_workers: Python processes that read; 0: this one.
        prefetch_factor: micro-batches that a worker prepares ahead.
        start_method: of the workers. DALI forks no process that has used CUDA, so ``spawn`` is the
            default there and ``fork``, which imports nothing again, elsewhere.

    Raises:
        MissingDependencyError: DALI is not installed.
    """

    def __init__(
        self,
        dataset: PackedMicroBatches,
        count: int,
        device: torch.device,
        *,
        num_workers: int = 0,
        prefetch_factor: int = 1,
        start_method: str | None = None,
    ) -> None:
        self.device = device
        if start_method is None:
            start_method = "spawn" if torch.cuda.is_initialized() else "fork"
        self.workers: list[BaseProcess] = []
        reading = _reading(dataset, count, device, num_workers, prefetch_factor)
        self._pipeline = _pipeline(reading, device, num_workers, start_method)
        try:
            self.workers = _start_workers(self._pipeline.start_py_workers)
            self._pipeline.build()
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Tensor | UserError:
        if self._pipeline is None:
            raise StopIteration
        # On torch's stream, so that the copy is not waited for here.
        on_gpu = self.device.type == "cuda"
        buffer, error = self._pipeline.run(*[current_stream()] * on_gpu)
        failure = np.asarray(error[0])
        if failure.size > 1:
            found: UserError = pickle.loads(failure.tobytes())
            return found
        if on_gpu:
            return torch.from_dlpack(buffer[0])  # memory of its own (DALI's dynamic executor)
        copy = np.array(buffer[0])  # of memory that DALI may use again
        return torch.from_numpy(copy)

    def close(self) -> None:
        """End the pipeline and its workers; nothing is given afterwards."""
        workers, self.workers = self.workers, []
        # DALI asks its workers to end, then sends SIGTERM, which they ignore, and waits for ever.
        last_resort = threading.Timer(_PATIENCE_SECONDS, _kill, [workers])
        last_resort.start()
        self._pipeline = None  # the last reference: its end is the workers'
        last_resort.cancel()
        _kill(workers)


def _reading(
    dataset: PackedMicroBatches,
    count: int,
    device: torch.device,
    num_workers: int,
    prefetch_factor: int,
) -> dict[str, Any]:
    """Options of the external source: who reads, and how far ahead."""
    if num_workers == 0:
        # For a GPU DALI's own memory is the better one: a copy from it overlaps.
        return {"source": _Source(dataset, count), "no_copy": device.type != "cuda"}
    return {
        "source": _WorkerSource(dataset, count),
        "parallel": True,
        "prefetch_queue_depth": prefetch_factor * num_workers,
        "bytes_per_sample_hint": dataset.layout.num_bytes,
    }


def _pipeline(
    reading: dict[str, Any], device: torch.device, num_workers: int, start_method: str
) -> Any:
    """A pipeline of one operator, an external source, and of a copy where there is a GPU."""
    dali = import_dali()
    pipeline = dali.Pipeline(
        batch_size=1,
        num_threads=1,
        device_id=_device_index(device),
        prefetch_queue_depth=_QUEUE_DEPTH,
        py_num_workers=num_workers,
        py_start_method=start_method,
    )
    with pipeline:
        buffer, error = dali.fn.external_source(
            num_outputs=2, batch=True, dtype=dali.types.UINT8, ndim=1, **reading
        )
        pipeline.set_outputs(buffer.gpu() if device.type == "cuda" else buffer, error)
    return pipeline


def _device_index(device: torch.device) -> int | None:
    """DALI's name of the device; None: no GPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _start_workers(start: Callable[[], None]) -> list[BaseProcess]:
    """Call ``start`` with the run's signals held back; the processes that it started."""
    before = set(multiprocessing.active_children())
    resource_tracker.ensure_running()  # its own start would let the signals through again
    with signals_held():
        start()
    return [child for child in multiprocessing.active_children() if child not in before]


def _kill(workers: list[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()
