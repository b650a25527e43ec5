"""``megatron-dream sample``: prompts in, text out; the same sampler that training and export use."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..device import current_device
from ..errors import ConfigError, DataError
from ..files import atomic_write
from ..sampling.generation import SamplingOutput, diffusion_generate
from ..sampling.sampling_config import SamplingConfig
from ..sampling.text import cut_at_eos
from ..tokenizer.base import Tokenizer
from .page import SampleRecord, write_page
from .sampler import Sampler, load_model
from .sampling_flags import in_flags
from .terminal import print_sample

Json = dict[str, Any]


def _prompts(
    prompt: str | None, prompt_file: Path | None, jsonl: Path | None
) -> Iterator[tuple[str, Json]]:
    """Prompt and the record it came in."""
    if prompt is not None:
        yield prompt, {"prompt": prompt}
        return
    path = prompt_file or jsonl
    if path is None or not Path(path).is_file():
        raise DataError(f"{path} is no file; give --prompt, --prompt-file or --jsonl")
    text = Path(path).read_text(encoding="utf-8")
    if prompt_file is not None:
        yield text, {"prompt": text}
        return
    # Not splitlines: a line separator of Unicode may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            record = _parsed(line, f"{path}, line {number}")
            yield record["prompt"], record


def _parsed(line: str, where: str) -> Json:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise DataError(f"{where}: no object with a text in the field 'prompt'; mend the line")
    return record


def run_sample(
    model: Path | str,
    prompt: str | None = None,
    prompt_file: Path | None = None,
    jsonl: Path | None = None,
    *,
    output: Path | None = None,
    page: Path | None = None,
    cache: str = "none",
    block_length: int | None = None,
    **options: Any,
) -> None:
    """Generate for every prompt; print, and write JSON lines and a page where asked.

    Args:
        model: exported folder or checkpoint.
        prompt: one prompt's text.
        prompt_file: a file with one prompt.
        jsonl: a file with one object with ``prompt`` a line.
        output: JSON lines, one a sample: the prompt's record with ``completion``,
            ``sample_index`` (0 to num_return_sequences - 1), ``seed`` and ``num_forward``.
        page: HTML that plays every sample.
        cache: only ``none`` so far.
        block_length: needs a cache.
        options: fields of SamplingConfig.

    Raises:
        UserError: model, prompts, files or options are not what they should be.
        ValueError: a prompt does not fit the model.
    """
    if cache != "none" or block_length is not None:
        raise DataError("--cache and --block-length come with the sampling stage; leave them out")
    _check(options)
    prompts = list(_prompts(prompt, prompt_file, jsonl))
    sampler = load_model(model)
    records, results = [], []
    with _progress(prompts) as numbered:
        for number, (text, source) in numbered:
            for record, result in _generate(sampler, text, options, number, len(prompts)):
                records.append(record)
                results.append({**source, **result})
                _show(record, result["completion"])
    if output is not None:
        with atomic_write(output) as stream:
            stream.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in results)
    if page is not None:
        write_page(page, records, title="Megatron-Dream samples")


def _check(options: Json) -> None:
    """Refuse what the sampler would, in the names of the flags and before a model is loaded."""
    try:
        SamplingConfig(**{"mask_token_id": 0, "pad_token_id": 0, **options})
    except ValueError as error:
        raise ConfigError(in_flags(str(error))) from None


@contextlib.contextmanager
def _progress(prompts: list[Any]) -> Iterator[Iterator[tuple[int, Any]]]:
    """The prompts, numbered; with a bar on a terminal and for more than one prompt."""
    if len(prompts) < 2 or not sys.stderr.isatty():
        yield enumerate(prompts)
        return
    from rich.console import Console
    from rich.progress import Progress

    # What goes to a file or a pipe must not be caught by the bar.
    console = Console(stderr=True)
    with Progress(console=console, redirect_stdout=sys.stdout.isatty()) as bar:
        yield enumerate(bar.track(prompts, description="sampling"))


def _show(record: SampleRecord, completion: str) -> None:
    """Coloured and harmless on a terminal, the bare text elsewhere."""
    if sys.stdout.isatty():
        print_sample(record)
    else:
        print(completion)


@dataclass(frozen=True)
class _Answer:
    """What one prompt's samples have in common."""

    output: SamplingOutput
    config: SamplingConfig
    tokenizer: Tokenizer
    prompt: str
    name: str  # "prompt 2" among several, else empty


def _generate(
    sampler: Sampler, text: str, options: Json, number: int, num_prompts: int
) -> list[tuple[SampleRecord, Json]]:
    """All samples of a prompt, in one batch."""
    tokenizer = sampler.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    seed = options.get("seed")
    config = SamplingConfig(
        **{
            "mask_token_id": tokenizer.mask_id,
            "pad_token_id": tokenizer.pad_id,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "num_tokens": tokenizer.vocab_size,
            "output_history": True,
            **options,
            "seed": None if seed is None else seed + number,
        }
    )
    output = diffusion_generate(
        sampler.model,
        torch.tensor([ids], device=current_device()),
        config=config,
        max_position=sampler.max_position,
    )
    name = f"prompt {number + 1}" if num_prompts > 1 else ""
    answer = _Answer(output, config, tokenizer, text, name)
    return [_record(answer, index) for index in range(config.num_return_sequences)]


def _record(answer: _Answer, index: int) -> tuple[SampleRecord, Json]:
    """Sample ``index`` of a prompt for the page, and for the JSON line."""
    output, tokenizer = answer.output, answer.tokenizer
    history, start, copies = output.history, output.prompt_length, len(output.sequences)
    assert history is not None
    sequence = output.sequences[index].tolist()
    response = cut_at_eos(sequence[start:], [tokenizer.eos_id])
    completion = tokenizer.decode(response, skip_special_tokens=True)
    sample = f"sample {index + 1} of {copies}" if copies > 1 else ""
    name = ", ".join(part for part in (answer.name, sample) if part)
    meta = {"algorithm": answer.config.alg, "seed": str(output.seed)}
    record = SampleRecord(
        prompt_tokens=[tokenizer.token_text(token) for token in sequence[1:start]],
        tokens=[tokenizer.token_text(token) for token in sequence[start:]],
        opened_step=history.opened_step[index, start:].tolist(),
        confidence=history.confidence[index, start:].nan_to_num(0.0).tolist(),
        text=answer.prompt + completion,
        meta={"name": name, **meta} if name else meta,
    )
    facts = {"sample_index": index, "seed": output.seed, "num_forward": output.num_forward}
    return record, {"completion": completion, **facts}
