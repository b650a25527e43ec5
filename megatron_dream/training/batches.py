"""The micro-batches of this process: one iterator a model chunk."""

from __future__ import annotations

from collections.abc import Sequence

from .. import device
from ..config.layout import Layout
from ..config.schema import ModelConfig
from ..data.loader import LoaderName, MicroBatchIterator
from ..data.packing import Packing
from ..data.stream import Stream
from ..parallel import Ranks


def packs_rows(model: ModelConfig, stream: Stream) -> bool:
    """Whether micro-batches of ``stream`` are packed: Transformer Engine takes segments, not masks."""
    return model.layer_spec == "transformer_engine" and not stream.has_whole_rows


def micro_batch_iterators(
    stream: Stream,
    ranks: Ranks,
    layout: Layout,
    consumed: int,
    num_microbatches: int,
    *,
    skip: Sequence[tuple[int, int]] = (),
    workers: int = 0,
    loader: LoaderName = "torch",
    packs: bool = False,
) -> list[MicroBatchIterator]:
    """Iterators over ``stream`` from sample ``consumed`` on; each model chunk reads for itself.

    Args:
        stream: rows by ordinal.
        ranks: this process's place.
        layout: micro-batch size and chunks.
        consumed: samples of finished updates.
        num_microbatches: a step and data-parallel rank.
        skip: ranges [first, end) of ordinals that the run leaves out.
        workers: loader processes of each reading rank.
        loader: what reads; DALI copies to the GPU ahead.
        packs: rows of a micro-batch become one sequence, as Transformer Engine takes segments.
    """
    packing = Packing(layout.packed_unit, stream.has_one_width) if packs else None
    last = layout.vp - 1
    return [
        MicroBatchIterator(
            stream,
            consumed=consumed,
            micro_batch_size=layout.micro_batch_size,
            num_microbatches=num_microbatches,
            dp_rank=ranks.dp_rank,
            dp_size=ranks.dp_size,
            tp_group=ranks.tp_group,
            tp_rank=ranks.tp_rank,
            tp_source_rank=ranks.tp_source,
            cp_rank=ranks.cp_rank,
            cp_size=ranks.cp_size,
            is_first_stage=ranks.pp_rank == 0 and chunk == 0,
            is_last_stage=ranks.is_last_pipeline_rank and chunk == last,
            device=device.current_device(),
            num_workers=workers,
            skip_ranges=skip,
            loader=loader,
            width_unit=layout.width_unit,
            packing=packing,
        )
        for chunk in range(layout.vp)
    ]
