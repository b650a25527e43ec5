"""Gaps whose length is found: batches through the sampler, the JSON line and the page's record of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from ..device import current_device
from ..errors import DataError
from ..sampling.infill import Gap as FilledGap
from ..sampling.infill import GapConfig, Slot, fill_gaps
from ..sampling.randomness import fresh_seed
from ..sampling.sampling_config import SamplingConfig
from ..tokenizer.base import Tokenizer
from .generate import DEFAULT_ROWS, Sample
from .page import Change, SampleRecord
from .prompts import Gap
from .sampler import Sampler


def fill(
    sampler: Sampler,
    gaps: Sequence[Gap],
    config: SamplingConfig,
    growth: GapConfig,
    batch_size: int | None = None,
) -> Iterator[list[Sample]]:
    """The samples of each gap, in order.

    Args:
        sampler: the model.
        gaps: what to fill; their lengths are not looked at.
        config: gap k draws from its seed + k; without a seed each gap gets a fresh one.
        growth: how gaps may change; the expand token is the tokenizer's.
        batch_size: gaps that run together; default: as many as make 8 rows.

    Raises:
        DataError: one does not fit the model; found before anything is generated.
    """
    tokenizer, copies = sampler.tokenizer, config.num_return_sequences
    sides = [gap.sides(tokenizer) for gap in gaps]
    for gap, (before, after) in zip(gaps, sides, strict=True):
        size = len(before) + growth.masks + len(after)
        if size > sampler.max_position:
            raise DataError(
                f"{gap.where}: {size} tokens, {growth.masks} masks among them, exceed the model's "
                f"{sampler.max_position} positions; shorten the texts"
            )
    config = dataclasses.replace(config, eos_token_id=tokenizer.eos_id)
    growth = dataclasses.replace(growth, expand_token_id=tokenizer.expand_id)
    size = batch_size or max(1, DEFAULT_ROWS // copies)
    return _batches(sampler, gaps, sides, config, growth, size)


def _batches(
    sampler: Sampler,
    gaps: Sequence[Gap],
    sides: Sequence[tuple[list[int], list[int]]],
    config: SamplingConfig,
    growth: GapConfig,
    size: int,
) -> Iterator[list[Sample]]:
    copies = config.num_return_sequences
    for first in range(0, len(gaps), size):
        numbers = range(first, min(first + size, len(gaps)))
        seeds = [fresh_seed() if config.seed is None else config.seed + k for k in numbers]
        output = fill_gaps(
            sampler.model,
            [sides[k][0] for k in numbers],
            [sides[k][1] for k in numbers],
            sampling=dataclasses.replace(config, seed=seeds[0]),
            gap=growth,
            row_ids=[0] * len(numbers),
            row_seeds=seeds,
            max_position=sampler.max_position,
            device=current_device(),
        )
        for place, k in enumerate(numbers):
            name = f"gap {k + 1}" if len(gaps) > 1 else ""
            mine = output.gaps[place * copies : (place + 1) * copies]
            yield [
                _sample(sampler.tokenizer, gaps[k], filled, config, seeds[place], index, name)
                for index, filled in enumerate(mine)
            ]


def _sample(
    tokenizer: Tokenizer,
    gap: Gap,
    filled: FilledGap,
    config: SamplingConfig,
    seed: int,
    index: int,
    name: str,
) -> Sample:
    text = tokenizer.decode(filled.tokens, skip_special_tokens=True)
    facts = {
        "sample_index": index,
        "seed": seed,
        "num_forward": filled.num_steps,
        "num_tokens": len(filled.tokens),
        "num_expansions": filled.num_expansions,
    }
    copies = config.num_return_sequences
    copy = f"sample {index + 1} of {copies}" if copies > 1 else ""
    name = ", ".join(part for part in (name, copy) if part)
    record = _record(tokenizer, filled)
    record.text = gap.whole(text)
    meta = {"algorithm": config.alg, "seed": str(seed), "expansions": str(filled.num_expansions)}
    record.meta = {"name": name, **meta} if name else meta
    line = {**gap.source, gap.field: text, **facts}
    return Sample(text, line, record, len(filled.tokens))


def _record(tokenizer: Tokenizer, filled: FilledGap) -> SampleRecord:
    slots = filled.slots
    return SampleRecord(
        prompt_tokens=[tokenizer.token_text(token) for token in filled.prefix[1:]],  # without BOS
        tokens=["" if s.token is None else tokenizer.token_text(s.token) for s in slots],
        opened_step=[slot.opened_step for slot in slots],
        confidence=[slot.confidence for slot in slots],
        text="",
        suffix_tokens=[tokenizer.token_text(token) for token in filled.suffix[:-1]],  # without EOS
        inserted_step=[slot.inserted_step for slot in slots],
        removed_step=[slot.removed_step for slot in slots],
        earlier=[
            change
            for place, slot in enumerate(slots)
            for change in _earlier(tokenizer, place, slot)
        ],
    )


def _earlier(tokenizer: Tokenizer, place: int, slot: Slot) -> list[Change]:
    return [
        Change(place, step, None if token is None else tokenizer.token_text(token))
        for step, token in slot.earlier
    ]
