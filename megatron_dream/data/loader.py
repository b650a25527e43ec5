"""From a stream of rows to the micro-batches of one rank.

**Which rows.** Samples are counted in the order of the stream. With global batch G = M R B (M
micro-batches a step, R data-parallel ranks, B rows), a step that starts at sample c gives
micro-batch m of data-parallel rank r the samples

    c + (m R + r) B + j,   j = 0 .. B - 1.

The set of a step's samples is c .. c + G - 1 on every layout. Skipped ranges are left out of the
count: ``ordinal_of`` maps samples to ordinals. Position in the run is one number, the samples
consumed by finished updates; starting there replays nothing.

**Who reads.** Tensor-parallel rank 0 of each pipeline stage and model chunk; the others get its
buffer (batch.py). Worker processes pack whole micro-batches, so that what crosses is one small
tensor.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import UserError
from .batch import BatchLayout, broadcast, to_batch
from .signals import ignore_run_signals, signals_held
from .stream import NoisedStream

SkipRanges = Sequence[tuple[int, int]]
LoaderName = Literal["torch", "dali"]
_PREFETCH_FACTOR = 4  # micro-batches a worker prepares ahead


def ordinal_of(sample: int, skip: SkipRanges = ()) -> int:
    """Ordinal in the stream of the ``sample``-th sample that is not skipped.

    Args:
        sample: count from 0 of samples consumed before it.
        skip: ranges [start, stop) of ordinals to leave out, sorted and disjoint (``merge_ranges``).
    """
    ordinal = sample
    for start, stop in skip:
        if ordinal < start:
            break
        ordinal += stop - start
    return ordinal


def merge_ranges(skip: SkipRanges) -> list[tuple[int, int]]:
    """Sorted, disjoint ranges with the same members.

    Raises:
        ValueError: a range that ends before it starts or starts below 0.
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(skip):
        if start < 0 or stop < start:
            raise ValueError(f"Skipped range [{start}, {stop}) must have 0 <= start <= stop.")
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        elif start < stop:
            merged.append((start, stop))
    return merged


def micro_batch_samples(
    consumed: int, micro_batch: int, *, dp_rank: int, dp_size: int, micro_batch_size: int
) -> range:
    """Samples of one micro-batch of a step that starts at ``consumed`` (the module's formula)."""
    first = consumed + (micro_batch * dp_size + dp_rank) * micro_batch_size
    return range(first, first + micro_batch_size)


class PackedMicroBatches(Dataset):
    """Packed micro-batches of one rank by their number since the start.

    A user's error is returned, not raised: torch would wrap a worker's exception in a traceback.
    """

    def __init__(
        self,
        stream: NoisedStream,
        layout: BatchLayout,
        skip: SkipRanges,
        **place: int,
    ) -> None:
        self.stream, self.layout, self.skip = stream, layout, list(skip)
        self.consumed, self.num_microbatches = place["consumed"], place["num_microbatches"]
        self.dp_rank, self.dp_size = place["dp_rank"], place["dp_size"]

    def samples(self, number: int) -> range:
        """Samples of micro-batch ``number``."""
        step, micro_batch = divmod(number, self.num_microbatches)
        size = self.layout.micro_batch_size
        return micro_batch_samples(
            self.consumed + step * self.num_microbatches * self.dp_size * size,
            micro_batch,
            dp_rank=self.dp_rank,
            dp_size=self.dp_size,
            micro_batch_size=size,
        )

    def __getitem__(self, number: int) -> Tensor | UserError:
        ordinals = [ordinal_of(sample, self.skip) for sample in self.samples(number)]
        try:
            if not self.layout.needs_noise:
                return self.layout.pack_flags([self.stream.flags(n) for n in ordinals])
            return self.layout.pack([self.stream[n] for n in ordinals])
        except UserError as error:
            return error


class _Numbers(Sampler[int]):
    """0, 1, 2, ... below ``stop`` without a list of them."""

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.stop))

    def __len__(self) -> int:
        return self.stop


def _start_worker(worker: int) -> None:
    ignore_run_signals()


def _close_at_exit(reference: weakref.ref[MicroBatchIterator]) -> None:
    """Multiprocessing ends by SIGTERM and waits for workers that ignore it: be there before."""
    iterator = reference()
    if iterator is not None:
        iterator.close()


class MicroBatchIterator:
    """Micro-batches of one model chunk of this rank, from a given position on.

    ``next`` gives a dict of tensors on ``device`` (batch.py's ``to_batch``): ``flags``,
    ``flags_full`` and ``cu_seqlens`` always; ``tokens`` on the first stage; ``labels``,
    ``loss_weight``, ``t``, ``source``, ``ordinal``, ``num_maskable`` on the last. All ranks of a
    tensor-parallel group must call it alike. With virtual pipeline stages each chunk has an
    iterator of its own.

    Args:
        stream: rows by ordinal, the same on every rank.
        consumed: samples consumed by finished updates.
        micro_batch_size: B.
        num_microbatches: M, of a step on each data-parallel rank.
        dp_rank: data-parallel rank, context parallelism not counted.
        dp_size: R.
        tp_group: tensor-parallel group; None: this rank alone.
        tp_rank: in that group; rank 0 reads.
        tp_source_rank: global rank of its rank 0.
        cp_rank: context-parallel rank.
        cp_size: of that group.
        is_first_stage: of the pipeline, for this chunk.
        is_last_stage: likewise.
        device: where the tensors go.
        num_workers: processes on the reading rank; 0 reads in this one.
        stop_ordinal: the stream ends before this ordinal; default: its length. Only whole global
            batches are given.
        skip_ranges: ranges [start, stop) of ordinals that are left out.
        loader: ``"torch"`` or ``"dali"`` (dali_feed.py); the batches are the same.

    Raises:
        MissingDependencyError: DALI is asked for and not installed.
    """

    def __init__(
        self,
        stream: NoisedStream,
        *,
        consumed: int = 0,
        micro_batch_size: int = 1,
        num_microbatches: int = 1,
        dp_rank: int = 0,
        dp_size: int = 1,
        tp_group: dist.ProcessGroup | None = None,
        tp_rank: int = 0,
        tp_source_rank: int = 0,
        cp_rank: int = 0,
        cp_size: int = 1,
        is_first_stage: bool = True,
        is_last_stage: bool = True,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        stop_ordinal: int | None = None,
        skip_ranges: SkipRanges = (),
        loader: LoaderName = "torch",
    ) -> None:
        if loader == "dali":  # absent, it is missed on ranks that do not read too
            from .dali_feed import import_dali

            import_dali()
        self.layout = BatchLayout(
            micro_batch_size, stream.sequence_length, is_first_stage, is_last_stage
        )
        self.device = torch.device(device)
        self.is_reader = tp_rank == 0
        self._tp_group, self._tp_source_rank = tp_group, tp_source_rank
        self._cp_rank, self._cp_size = cp_rank, cp_size
        self._has_whole_rows = stream.has_whole_rows
        skip = merge_ranges(skip_ranges)
        stop = min(len(stream), len(stream) if stop_ordinal is None else stop_ordinal)
        steps = (_samples_before(stop, skip) - consumed) // (
            num_microbatches * dp_size * micro_batch_size
        )
        self.num_left = max(0, steps) * num_microbatches
        self._buffers: Iterator[Any] | None = None
        if self.is_reader and self.num_left:
            place = {"consumed": consumed, "num_microbatches": num_microbatches}
            dataset = PackedMicroBatches(
                stream, self.layout, skip, dp_rank=dp_rank, dp_size=dp_size, **place
            )
            self._buffers = _read(dataset, self.num_left, num_workers, self.device, loader)
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)

    def __iter__(self) -> MicroBatchIterator:
        return self

    def __next__(self) -> dict[str, Tensor]:
        if self.num_left == 0:
            self.close()
            raise StopIteration
        self.num_left -= 1
        buffer = None
        if self._buffers is not None:
            buffer = next(self._buffers)
            if isinstance(buffer, UserError):
                self.close()
                raise buffer
        buffer = broadcast(
            buffer,
            self.layout,
            group=self._tp_group,
            source=self._tp_source_rank,
            is_reader=self.is_reader,
            device=self.device,
        )
        return to_batch(
            buffer,
            self.layout,
            cp_rank=self._cp_rank,
            cp_size=self._cp_size,
            has_whole_rows=self._has_whole_rows,
        )

    def close(self) -> None:
        """End the worker processes; the iterator gives nothing afterwards."""
        self.num_left = 0
        atexit.unregister(self._at_exit)
        buffers, self._buffers = self._buffers, None
        if buffers is not None and hasattr(buffers, "close"):  # of DALI, or a generator
            buffers.close()
            return
        workers = getattr(buffers, "_workers", [])
        if workers:
            buffers._shutdown_workers()  # type: ignore[union-attr]
        for worker in workers:  # torch's last resort is SIGTERM, which they ignore
            if worker.is_alive():
                worker.kill()


def _samples_before(stop: int, skip: list[tuple[int, int]]) -> int:
    """How many ordinals below ``stop`` are not skipped."""
    return stop - sum(min(end, stop) - start for start, end in skip if start < stop)


def _read(
    dataset: PackedMicroBatches,
    count: int,
    num_workers: int,
    device: torch.device,
    loader: LoaderName,
) -> Iterator[Any]:
    """Packed micro-batches 0..count-1, in order, by worker processes if asked."""
    if loader == "dali":
        from .dali_feed import DaliFeed

        return DaliFeed(
            dataset, count, device, num_workers=num_workers, prefetch_factor=_PREFETCH_FACTOR
        )
    if num_workers == 0:
        return (dataset[number] for number in range(count))
    torch_loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=_Numbers(count),
        num_workers=num_workers,
        prefetch_factor=_PREFETCH_FACTOR,
        persistent_workers=True,
        multiprocessing_context="fork",  # megatron-core's import takes seconds
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
    )
    with signals_held():
        return iter(torch_loader)
