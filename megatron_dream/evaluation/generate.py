"""Prompts through the sampler in batches: the text, the JSON line and the page's record of each sample.

A sample depends on its prompt, its number and the seed, never on the batch it was made in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..device import current_device
from ..errors import DataError
from ..sampling.canvas import pad_left
from ..sampling.generation import SamplingOutput, diffusion_generate
from ..sampling.history import History
from ..sampling.randomness import fresh_seed
from ..sampling.sampling_config import SamplingConfig
from ..sampling.text import cut_at_eos
from .page import Change, SampleRecord
from .prompts import Json, Prompt, Row
from .sampler import Sampler

DEFAULT_ROWS = 8  # of a batch


@dataclass(frozen=True)
class Sample:
    """One generation.

    Attributes:
        text: of the response.
        line: what ``--output`` writes.
        record: what the page and the terminal show.
        num_tokens: of the response, before its end.
    """

    text: str
    line: Json
    record: SampleRecord
    num_tokens: int


def sampling_config(sampler: Sampler, **options: Any) -> SamplingConfig:
    """``options`` with the ids that the tokenizer knows."""
    tokenizer = sampler.tokenizer
    ids = {
        "mask_token_id": tokenizer.mask_id,
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "num_tokens": tokenizer.vocab_size,
    }
    return SamplingConfig(**{**ids, **options})


def encode_prompts(
    sampler: Sampler, prompts: Sequence[Prompt], config: SamplingConfig
) -> list[Row]:
    """The tokens of all prompts.

    Raises:
        DataError: one does not fit the model; found before anything is generated.
    """
    rows = [prompt.encode(sampler) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row.ids) + config.max_new_tokens > sampler.max_position:
            raise DataError(
                f"{prompt.where}: {len(row.ids)} tokens and {config.max_new_tokens} new ones exceed the "
                f"model's {sampler.max_position} positions; shorten the text or ask for less"
            )
    return rows


def generate(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    config: SamplingConfig,
    batch_size: int | None = None,
) -> Iterator[list[Sample]]:
    """The samples of each prompt, in order.

    Args:
        sampler: the model.
        prompts: what was asked for.
        rows: their tokens.
        config: prompt k draws from its seed + k; without a seed each prompt gets a fresh one.
        batch_size: prompts that run together; default: as many as make 8 rows.
    """
    size = batch_size or max(1, DEFAULT_ROWS // config.num_return_sequences)
    ends = common_ends(sampler, prompts)
    config = dataclasses.replace(config, eos_token_id=ends, output_history=True)
    for first in range(0, len(prompts), size):
        numbers = range(first, min(first + size, len(prompts)))
        seeds = [fresh_seed() if config.seed is None else config.seed + k for k in numbers]
        output = _run(sampler, [rows[k] for k in numbers], seeds, config)
        for place, k in enumerate(numbers):
            answer = _Answer(sampler, output, config, prompts[k], rows[k], seeds[place], place)
            name = f"prompt {k + 1}" if len(prompts) > 1 else ""
            yield [answer.sample(index, name) for index in range(config.num_return_sequences)]


def common_ends(sampler: Sampler, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens that end every prompt's text: others may not end a row early that they do not end."""
    sets = [set(prompt.ends(sampler.tokenizer)) for prompt in prompts]
    return sorted(set.intersection(*sets)) if sets else []


def _run(
    sampler: Sampler, rows: list[Row], seeds: list[int], config: SamplingConfig
) -> SamplingOutput:
    """One batch, padded on the left."""
    prompts = [row.ids for row in rows]
    ids_RP, real_RP = pad_left(prompts, sampler.tokenizer.pad_id, current_device())
    return diffusion_generate(
        sampler.model,
        ids_RP,
        real_RP if len(rows) > 1 else None,
        config=dataclasses.replace(config, seed=seeds[0]),
        row_ids=[0] * len(rows),
        row_seeds=seeds,
        max_position=sampler.max_position,
    )


@dataclass(frozen=True)
class _Answer:
    """One prompt's part of a batch's output."""

    sampler: Sampler
    output: SamplingOutput
    config: SamplingConfig
    prompt: Prompt
    row: Row
    seed: int
    place: int  # in the batch

    def sample(self, index: int, name: str) -> Sample:
        """Sample ``index`` of the prompt; ``name``: of the prompt among others, or empty."""
        tokenizer, copies = self.sampler.tokenizer, self.config.num_return_sequences
        number = self.place * copies + index
        padding = self.output.prompt_length - len(self.row.ids)
        sequence = self.output.sequences[number].tolist()
        begin = padding + self.row.start
        end = begin + self.row.num_given_masks if self.row.num_given_masks else len(sequence)
        response = cut_at_eos(sequence[begin:end], self.prompt.ends(tokenizer))
        text = tokenizer.decode(response, skip_special_tokens=True)
        events = _events(self.output.history, number, self.config.mask_token_id)
        passes = {event.step for event in events if event.is_from_model}
        facts = {"sample_index": index, "seed": self.seed, "num_forward": len(passes)}
        copy = f"sample {index + 1} of {copies}" if copies > 1 else ""
        name = ", ".join(part for part in (name, copy) if part)
        meta = {"algorithm": self.config.alg, "seed": str(self.seed)}
        record = self._record(number, sequence, range(padding, begin), range(begin, end))
        record.earlier = self._earlier(events, begin, end)
        record.text = self.prompt.whole(text)
        record.meta = {"name": name, **meta} if name else meta
        line = {**self.prompt.source, self.prompt.field: text, **facts}
        return Sample(text, line, record, len(response))

    def _record(
        self, number: int, sequence: list[int], before: range, canvas: range
    ) -> SampleRecord:
        tokenizer, history = self.sampler.tokenizer, self.output.history
        assert history is not None
        texts = [tokenizer.token_text(token) for token in sequence]
        # BOS before and EOS after say nothing to a reader
        first = before.start + (sequence[before.start] == tokenizer.bos_id)
        last = len(texts) - (canvas.stop < len(texts) and sequence[-1] == tokenizer.eos_id)
        confidence = history.confidence[number, canvas.start : canvas.stop].tolist()
        return SampleRecord(
            prompt_tokens=texts[first : before.stop],
            tokens=texts[canvas.start : canvas.stop],
            opened_step=history.opened_step[number, canvas.start : canvas.stop].tolist(),
            confidence=[None if value != value else value for value in confidence],
            text="",
            suffix_tokens=texts[canvas.stop : last],
        )

    def _earlier(self, events: list[_Event], begin: int, end: int) -> list[Change]:
        """What happened to each position before its last opening."""
        last = {event.position: number for number, event in enumerate(events)}
        return [
            Change(
                event.position - begin,
                event.step,
                None if event.is_mask else self.sampler.tokenizer.token_text(event.token),
            )
            for number, event in enumerate(events)
            if begin <= event.position < end and last[event.position] != number
        ]


@dataclass(frozen=True)
class _Event:
    step: int
    position: int
    token: int
    is_mask: bool
    is_from_model: bool


def _events(history: History | None, row: int, mask_token_id: int | None) -> list[_Event]:
    """What happened to one row, in order."""
    assert history is not None
    mine = history.rows == row
    # What early_end fills has no probability: no pass of the model stands behind it.
    known = ~history.probabilities[mine].isnan()
    columns = (history.steps[mine], history.positions[mine], history.tokens[mine], known)
    return [
        _Event(step, position, token, token == mask_token_id, is_known)
        for step, position, token, is_known in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]
