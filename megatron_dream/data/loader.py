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

**How wide.** Where rows differ in length (``Stream.has_one_width`` is False) a micro-batch is as wide
as its longest row, rounded up to what the layout can cut. Every rank knows it from the stream; nobody
waits for a message that tells it.
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
from .ahead import CopiedAhead
from .batch import BatchLayout, broadcast, to_batch
from .packing import Packing
from .signals import ignore_run_signals, signals_held
from .stream import Stream

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
        stream: Stream,
        layout: BatchLayout,
        skip: SkipRanges,
        **place: int,
    ) -> None:
        self.stream, self.layout, self.skip = stream, layout, list(skip)
        self.width_unit = place.get("width_unit", 1)
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

    def ordinals(self, number: int) -> list[int]:
        """Ordinals of micro-batch ``number``."""
        return [ordinal_of(sample, self.skip) for sample in self.samples(number)]

    def layout_of(self, number: int) -> BatchLayout:
        """Layout of micro-batch ``number``, as wide as it is."""
        if self.stream.has_one_width:
            return self.layout
        return self._layout(max(self.stream.row_length(n) for n in self.ordinals(number)))

    def _layout(self, longest: int) -> BatchLayout:
        unit = self.width_unit
        return self.layout.of_width(min(-(-longest // unit) * unit, self.layout.sequence_length))

    def __getitem__(self, number: int) -> Tensor | UserError:
        ordinals = self.ordinals(number)
        one_width = self.stream.has_one_width
        try:
            if not self.layout.needs_noise:
                flags = [self.stream.flags(n) for n in ordinals]
                layout = self.layout if one_width else self._layout(max(map(len, flags)))
                return layout.pack_flags(flags)
            rows = [self.stream[n] for n in ordinals]
            layout = (
                self.layout if one_width else self._layout(max(row.tokens.size for row in rows))
            )
            return layout.pack(rows)
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
        width_unit: what a micro-batch's width must be a multiple of, where rows differ in length.
        packing: a micro-batch's rows become one sequence (packing.py); None: they stay rows.

    Raises:
        MissingDependencyError: DALI is asked for and not installed.
    """

    def __init__(
        self,
        stream: Stream,
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
        width_unit: int = 1,
        packing: Packing | None = None,
    ) -> None:
        if loader == "dali":  # absent, it is missed on ranks that do not read too
            from .dali_feed import import_dali

            import_dali()
        self.layout = BatchLayout(
            micro_batch_size,
            stream.sequence_length,
            is_first_stage,
            is_last_stage,
            stream.pad_id,
        )
        self.device = torch.device(device)
        self.is_reader = tp_rank == 0
        self._tp_group, self._tp_source_rank = tp_group, tp_source_rank
        self._cp_rank, self._cp_size = cp_rank, cp_size
        self._has_whole_rows, self._packing = stream.has_whole_rows, packing
        skip = merge_ranges(skip_ranges)
        stop = min(len(stream), len(stream) if stop_ordinal is None else stop_ordinal)
        steps = (_samples_before(stop, skip) - consumed) // (
            num_microbatches * dp_size * micro_batch_size
        )
        self.num_left = max(0, steps) * num_microbatches
        self._number = 0  # of the next micro-batch
        place = {"consumed": consumed, "num_microbatches": num_microbatches}
        place |= {"dp_rank": dp_rank, "dp_size": dp_size, "width_unit": width_unit}
        self._dataset = PackedMicroBatches(stream, self.layout, skip, **place)
        self._buffers: Iterator[Any] | None = None
        if self.is_reader and self.num_left:
            self._buffers = _read(self._dataset, self.num_left, num_workers, self.device, loader)
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
        # What the reader packed tells its width; the others ask the stream.
        layout = (
            self._dataset.layout_of(self._number)
            if buffer is None
            else self.layout.of_buffer(buffer)
        )
        self._number += 1
        buffer = broadcast(
            buffer,
            layout,
            group=self._tp_group,
            source=self._tp_source_rank,
            is_reader=self.is_reader,
            device=self.device,
        )
        return to_batch(
            buffer,
            layout,
            cp_rank=self._cp_rank,
            cp_size=self._cp_size,
            has_whole_rows=self._has_whole_rows,
            packing=self._packing,
        )

    def close(self) -> None:
        """End the worker processes; the iterator gives nothing afterwards."""
        self.num_left = 0
        atexit.unregister(self._at_exit)
        buffers, self._buffers = self._buffers, None
        if isinstance(buffers, CopiedAhead):
            buffers = buffers.source
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
    on_gpu = device.type == "cuda"
    if num_workers == 0:  # not ahead: reading would hold up the step
        return (dataset[number] for number in range(count))
    torch_loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=_Numbers(count),
        num_workers=num_workers,
        prefetch_factor=_PREFETCH_FACTOR,
        persistent_workers=True,
        multiprocessing_context="fork",  # megatron-core's import takes seconds
        pin_memory=on_gpu,
        worker_init_fn=_start_worker,
    )
    with signals_held():
        buffers = iter(torch_loader)
    return CopiedAhead(buffers, device) if on_gpu else buffers
