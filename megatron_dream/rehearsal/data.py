"""The data of a run without its processes: files opened, indices checked, and which rank reads what.

The split is the loader's own formula (data/loader.py), evaluated for every data-parallel rank; rows of the
first and of the last step are read, where the indices are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.metadata import CheckpointMetadata
from ..config.layout import Layout
from ..config.schema import RunConfig, SourceConfig
from ..data.build import check_may_build, open_blends, streams_of
from ..data.loader import merge_ranges, micro_batch_samples, ordinal_of
from ..data.sft.build import Built, cache_folder, open_sft_sources, sft_streams_of
from ..data.stream import Stream
from ..errors import LayoutError
from ..tokenizer.base import Tokenizer
from ..training.engine import data_position
from ..training.run import planned_ordinals

MANY_EPOCHS = 4.0  # to there repeated data is nearly as good as new (Muennighoff et al. 2023)


@dataclasses.dataclass
class DataReport:
    """What the ranks will read.

    Attributes:
        samples: ordinals from the start of the stream to the run's end.
        first: the next one that is read.
        by_rank: of the next step, ordinals [first, end) of the first and the last micro-batch of the first
            and the last data-parallel rank.
        sources: name, rows of an epoch, epochs of the whole run.
        index_hash: what a checkpoint compares; None where indices are still to be built.
        notes: what is still to happen.
        warnings: what is possible and unwise.
        variable_lengths: micro-batches differ in width.
    """

    samples: int
    first: int
    by_rank: dict[int, list[list[int]]]
    sources: list[tuple[str, int, float]]
    index_hash: str | None
    notes: list[str]
    warnings: list[str]
    variable_lengths: bool


def rehearse_data(
    config: RunConfig,
    stage: str,
    tokenizer: Tokenizer,
    layout: Layout,
    saved: CheckpointMetadata | None,
) -> DataReport:
    """Open what pretrain or sft reads, as its processes would, and build nothing.

    Raises:
        DataError, ConfigError: what would stop the job, too.
    """
    planned = planned_ordinals(config, saved)
    opened = _open_sft if stage == "sft" else _open_text
    streams, index_hash, sizes, notes, varies = opened(config, stage, tokenizer, layout, planned)
    position = data_position(saved, config.data.new_stream)
    skip = merge_ranges([(first, end) for first, end in position.skipped_ranges])
    if streams is not None:
        _read(streams, layout, position.consumed_samples, planned, skip)
    sources = _epochs(config.data.train, sizes, planned - position.consumed_samples)
    return DataReport(
        samples=planned,
        first=ordinal_of(position.consumed_samples, skip),
        by_rank=split(layout, position.consumed_samples, skip),
        sources=sources,
        index_hash=index_hash,
        notes=notes,
        warnings=[
            f"source {name} is read {epochs:.1f} times in this run ({rows:,} rows an epoch); more than "
            f"{MANY_EPOCHS:g} times teaches little: add data or lower its weight"
            for name, rows, epochs in sources
            if epochs > MANY_EPOCHS
        ],
        variable_lengths=varies,
    )


def split(
    layout: Layout, consumed: int, skip: Sequence[tuple[int, int]] = ()
) -> dict[int, list[list[int]]]:
    """Ordinals of the first and last micro-batch of the first and last data-parallel rank in the next step.

    Raises:
        LayoutError: the ranks together do not read each of the step's samples once.
    """
    samples: list[int] = []
    shown: dict[int, list[list[int]]] = {}
    for rank in range(layout.dp):
        ranges = [
            micro_batch_samples(
                consumed,
                number,
                dp_rank=rank,
                dp_size=layout.dp,
                micro_batch_size=layout.micro_batch_size,
            )
            for number in range(layout.num_microbatches)
        ]
        samples += [sample for one in ranges for sample in one]
        if rank in (0, layout.dp - 1):
            shown[rank] = [
                [ordinal_of(one[0], skip), ordinal_of(one[-1], skip) + 1]
                for one in (ranges[0], ranges[-1])
            ]
    if sorted(samples) != list(range(consumed, consumed + layout.global_batch_size)):
        raise LayoutError(f"the ranks would not read each sample once [{layout.equation()}]")
    return shown


def _open_text(
    config: RunConfig, stage: str, tokenizer: Tokenizer, layout: Layout, planned: int
) -> tuple[Any, str | None, list[int], list[str], bool]:
    blends = open_blends(config, tokenizer, planned, config.training.eval_samples, thorough=True)
    missing = blends.missing()
    check_may_build(config, len(missing), blends.folder, layout.world_size)
    sizes = [source.rows_per_epoch for source in blends.train.sources]
    if missing:
        return None, None, sizes, [_to_build(len(missing), blends.folder)], False
    for index in blends.indices():
        index.check(with_content=True, wait_seconds=0.0)
    train, valid, index_hash = streams_of(config, tokenizer, stage, blends)
    return (train, valid), index_hash, sizes, [], not train.has_one_width


def _open_sft(
    config: RunConfig, stage: str, tokenizer: Tokenizer, layout: Layout, planned: int
) -> tuple[Any, str | None, list[int], list[str], bool]:
    built: list[Built] = open_sft_sources(
        config, tokenizer, stage, planned, config.training.eval_samples, thorough=True
    )
    varies = not built[0].stream.has_one_width
    missing = [one for one in built if not one.blend.is_built]
    if missing:
        note = _to_build(len(missing), cache_folder(config))
        return None, None, built[0].sizes, [note], varies
    for one in built:
        one.blend.check(with_content=True, wait_seconds=0.0)
    train, valid, index_hash = sft_streams_of(config, built)
    return (train, valid), index_hash, built[0].sizes, [], varies


def _to_build(count: int, folder: Path) -> str:
    return (
        f"the job builds {count} indices in {folder}, so that no row was read; megatron-dream build-index "
        f"builds them now"
    )


def _read(
    streams: tuple[Stream, Stream | None],
    layout: Layout,
    consumed: int,
    planned: int,
    skip: Sequence[tuple[int, int]],
) -> None:
    """Read the first rows of the next step, the last ones of the run, and the first ones to validate on."""
    train, valid = streams
    rows = layout.micro_batch_size
    for sample in range(consumed, consumed + rows):
        train[ordinal_of(sample, skip)]
    for ordinal in range(max(0, planned - rows), planned):
        train[ordinal]
    if valid is not None:
        for ordinal in range(rows):
            valid[ordinal]


def _epochs(
    configured: list[SourceConfig], sizes: list[int], samples: int
) -> list[tuple[str, int, float]]:
    total = sum(source.weight for source in configured)
    return [
        (
            source.name or Path(source.prefix).name,
            size,
            samples * source.weight / total / size,
        )
        for source, size in zip(configured, sizes, strict=True)
    ]
