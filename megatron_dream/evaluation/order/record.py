"""Recorded orders of generation as JSON lines: written by ``sample --history``, read by ``order``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...device import current_device
from ...errors import DataError
from ...files import atomic_write
from ...sampling.canvas import pad_left
from ...sampling.generation import diffusion_generate
from ...sampling.sampling_config import SamplingConfig
from ..generate import DEFAULT_ROWS, Sample
from ..prompts import Completion, Gap, Prompt, Row
from ..sampler import Sampler

Json = dict[str, Any]
# fields of SamplingConfig that say how a canvas was opened
SETTINGS = (
    "alg",
    "steps",
    "max_new_tokens",
    "block_length",
    "cache",
    "temperature",
    "top_p",
    "top_k",
    "alg_temp",
    "pad_penalty",
    "remask",
    "early_end",
)
# what of these forces a part of the order, unless it is this
_UNFORCED: Json = {"block_length": None, "cache": "none", "pad_penalty": None, "early_end": False}


@dataclass(frozen=True)
class OrderRecord:
    """One sample's order.

    Attributes:
        prefix: text that the sample goes on from; empty where it answers a message.
        tokens: texts of the canvas's tokens, by position.
        opened_step: of each, for the last time; -1: given.
        num_tokens: those before the first end; the rest is no text.
        first_entropy: nats, of each position of the wholly masked canvas; None: not recorded.
        confidence: the algorithm's, when each opened; None where there is none.
        settings: how it was sampled.
        where: for errors, such as ``order.jsonl, line 3``.
    """

    prefix: str
    tokens: list[str]
    opened_step: list[int]
    num_tokens: int
    first_entropy: list[float] | None = None
    confidence: list[float | None] | None = None
    settings: Json = field(default_factory=dict)
    where: str = ""

    @property
    def text_tokens(self) -> list[str]:
        """Tokens of the text."""
        return self.tokens[: self.num_tokens]

    @property
    def steps(self) -> list[int]:
        """Of the tokens of the text."""
        return self.opened_step[: self.num_tokens]

    @property
    def entropies(self) -> list[float] | None:
        """Likewise, nats."""
        return None if self.first_entropy is None else self.first_entropy[: self.num_tokens]

    def forced_by(self) -> str | None:
        """The first setting that forces a part of the order, as ``name value``; None: there is none."""
        for name, free in _UNFORCED.items():
            value = self.settings.get(name, free)
            # a block that holds the canvas is no block; no penalty may be said as 0
            canvas = self.settings.get("max_new_tokens")
            is_whole = name == "block_length" and _is_at_least(value, canvas)
            if value != free and value != 0 and not is_whole:
                return f"{name} {value}"
        return None


def write_history(
    path: Path | str,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    config: SamplingConfig,
    samples: Sequence[Sample],
) -> None:
    """Write what ``generate`` made of the prompts, with the entropies of their first step.

    Args:
        path: JSON lines.
        sampler: that made them; one more forward pass a prompt.
        prompts: in order.
        rows: their tokens.
        config: of the generation.
        samples: of each prompt ``num_return_sequences``, in order.
    """
    copies = config.num_return_sequences
    entropies = first_entropies(sampler, rows, config)
    with atomic_write(path) as stream:
        for number, (prompt, entropy) in enumerate(zip(prompts, entropies, strict=True)):
            for sample in samples[number * copies : (number + 1) * copies]:
                line = record_of(sample, prompt, entropy, config.resolved())
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def record_of(
    sample: Sample, prompt: Prompt, entropy: list[float] | None, config: SamplingConfig
) -> Json:
    """One line of the file; ``entropy``: of each position of the prompt's canvas, or None."""
    prefix = prompt.text if isinstance(prompt, Completion) else ""
    prefix = prompt.prefix if isinstance(prompt, Gap) else prefix
    facts = {name: sample.line[name] for name in ("sample_index", "seed", "num_forward")}
    return {
        **facts,
        "prefix": prefix,
        "tokens": sample.record.tokens,
        "opened_step": sample.record.opened_step,
        "num_tokens": sample.num_tokens,
        "first_entropy": entropy,
        "confidence": list(sample.record.confidence),
        "settings": {name: getattr(config, name) for name in SETTINGS},
    }


def first_entropies(
    sampler: Sampler, rows: Sequence[Row], config: SamplingConfig
) -> Iterator[list[float]]:
    """Entropy of the model's distribution at each position of each prompt's wholly masked canvas, nats.

    Temperature 1 and no filter, whatever the generation had. It is the sampler's own first step: one that
    opens everything at once, ordered by entropy.
    """
    first_step = SamplingConfig(
        max_new_tokens=config.max_new_tokens,
        steps=1,
        alg="entropy",
        output_history=True,
        seed=0,
        forbidden_token_ids=config.forbidden_token_ids,
        mask_token_id=config.mask_token_id,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        num_tokens=config.num_tokens,
    )
    for begin in range(0, len(rows), DEFAULT_ROWS):
        ids = [row.ids for row in rows[begin : begin + DEFAULT_ROWS]]
        ids_RP, real_RP = pad_left(ids, sampler.tokenizer.pad_id, current_device())
        mask = None if bool(real_RP.all()) else real_RP
        output = diffusion_generate(
            sampler.model, ids_RP, mask, config=first_step, max_position=sampler.max_position
        )
        assert output.history is not None
        confidence_BS = output.history.confidence
        for place, row in enumerate(rows[begin : begin + DEFAULT_ROWS]):
            start = output.prompt_length - len(row.ids) + row.start
            end = start + row.num_given_masks if row.num_given_masks else confidence_BS.shape[1]
            # minus the confidence of alg entropy, which adds 1e-10 inside the logarithm
            yield [max(0.0, -value) for value in confidence_BS[place, start:end].tolist()]


def read_records(path: Path | str) -> list[OrderRecord]:
    """All lines of a file.

    Raises:
        DataError: the file is missing or empty, or a line is no such record.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file; name one that sample --history has written.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text; name one that sample --history has written.") from None
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            records.append(_record(line, f"{path}, line {number}"))
    if not records:
        raise DataError(f"{path} holds no sample; sample with --history first.")
    return records


def _record(line: str, where: str) -> OrderRecord:
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise DataError(f"{where}: this is no JSON object; sample with --history again.")
    names = [one.name for one in dataclasses.fields(OrderRecord) if one.name != "where"]
    known = {name: values[name] for name in names if name in values}
    for name, is_right in _CHECKS.items():
        if not is_right(known.get(name), known):
            raise DataError(
                f"{where}: the field {name!r} is not what sample --history writes; write the file anew."
            )
    return OrderRecord(**{**known, "settings": known.get("settings") or {}}, where=where)


def _is_at_least(value: Any, other: Any) -> bool:
    return type(value) is int and type(other) is int and value >= other


def _is_list(value: Any, kinds: tuple[type, ...], count: int | None = None) -> bool:
    is_right = isinstance(value, list) and all(type(one) in kinds for one in value)
    return is_right and (count is None or len(value) == count)


def _count(known: Json) -> int:
    return len(known["tokens"])


# in this order: later ones rely on earlier ones
_CHECKS = {
    "prefix": lambda value, known: isinstance(value, str),
    "tokens": lambda value, known: _is_list(value, (str,)),
    "opened_step": lambda value, known: _is_list(value, (int,), _count(known)),
    "num_tokens": lambda value, known: type(value) is int and 0 <= value <= _count(known),
    "first_entropy": lambda value, known: (
        value is None
        or (_is_list(value, (int, float), _count(known)) and all(map(math.isfinite, value)))
    ),
    "confidence": lambda value, known: (
        value is None
        or (
            _is_list(value, (int, float, type(None)), _count(known))
            and all(one is None or math.isfinite(one) for one in value)
        )
    ),
    "settings": lambda value, known: value is None or isinstance(value, dict),
}
