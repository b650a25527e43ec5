"""``megatron-dream sample``: prompts in, text out; the same sampler that training and export use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.metadata import FILE_NAME
from ..device import current_device
from ..errors import DataError, MissingDependencyError, ModelFolderError
from ..files import atomic_write
from ..sampling.generation import SamplingOutput, diffusion_generate
from ..sampling.sampling_config import SamplingConfig
from ..sampling.text import cut_at_eos
from ..tokenizer.base import Tokenizer
from ..tokenizer.load import load_tokenizer
from .page import SampleRecord, write_page
from .terminal import print_sample


@dataclass
class Sampler:
    """A model that can be asked for logits, its tokenizer and what it may hold."""

    model: Any
    tokenizer: Tokenizer
    max_position: int


def load_model(model: Path | str) -> Sampler:
    """An exported folder through transformers, or a checkpoint through megatron-core.

    Raises:
        ModelFolderError: neither.
    """
    folder = Path(model)
    if (folder / "config.json").is_file() and not (folder / FILE_NAME).is_file():
        return _load_export(folder)
    if not folder.exists():
        raise ModelFolderError(f"{folder} does not exist; name an exported folder or a checkpoint")
    from ..checkpoint.inference import load_for_sampling

    loaded = load_for_sampling(folder)
    if loaded.tokenizer is None:
        raise ModelFolderError(f"{folder}: its tokenizer is gone; export it with --tokenizer first")
    return Sampler(loaded, loaded.tokenizer, loaded.metadata.model["max_position_embeddings"])


def _load_export(folder: Path) -> Sampler:
    try:
        from transformers import AutoModel
    except ImportError:
        raise MissingDependencyError("sampling an exported folder needs transformers") from None
    try:
        model = (
            AutoModel.from_pretrained(str(folder), trust_remote_code=True)
            .eval()
            .to(current_device())
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ModelFolderError(f"{folder} cannot be loaded by transformers ({first})") from None
    return Sampler(model, load_tokenizer(folder), model.config.max_position_embeddings)


def _prompts(
    prompt: str | None, prompt_file: Path | None, jsonl: Path | None
) -> Iterator[tuple[str, dict[str, Any]]]:
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
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            yield record["prompt"], record
        except (json.JSONDecodeError, KeyError, TypeError):
            raise DataError(
                f"{path}, line {number}: no object with a field 'prompt'; mend the line"
            ) from None


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
        output: JSON lines: the record with ``completion``, ``seed`` and ``seconds``.
        page: HTML that plays the generations.
        cache: only ``none`` so far.
        block_length: needs a cache.
        options: fields of SamplingConfig.

    Raises:
        UserError: model, prompts or files are not what they should be.
        ValueError: a sampling option is out of range.
    """
    if cache != "none" or block_length is not None:
        raise DataError("--cache and --block-length come with the sampling stage; leave them out")
    prompts = list(_prompts(prompt, prompt_file, jsonl))
    sampler = load_model(model)
    records, results = [], []
    for number, (text, source) in enumerate(_progress(prompts)):
        record, result = _generate(sampler, text, options, number)
        records.append(record)
        results.append({**source, **result})
        if len(prompts) == 1 and sys.stdout.isatty():
            print_sample(record)
        else:
            print(result["completion"])
    if output is not None:
        with atomic_write(output) as stream:
            stream.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in results)
    if page is not None:
        write_page(page, records, title="Megatron-Dream samples")


def _progress(prompts: list[Any]) -> Any:
    """A bar with rate and time left, on a terminal and for more than one prompt."""
    if len(prompts) < 2 or not sys.stderr.isatty():
        return prompts
    from rich.console import Console
    from rich.progress import track

    return track(prompts, description="sampling", console=Console(stderr=True))


def _generate(
    sampler: Sampler, text: str, options: dict[str, Any], number: int
) -> tuple[SampleRecord, dict[str, Any]]:
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
    return _record(tokenizer, output, text, len(ids), config)


def _record(
    tokenizer: Tokenizer,
    output: SamplingOutput,
    text: str,
    prompt_length: int,
    config: SamplingConfig,
) -> tuple[SampleRecord, dict[str, Any]]:
    sequence = output.sequences[0].tolist()
    response = cut_at_eos(sequence[prompt_length:], [tokenizer.eos_id])
    completion = tokenizer.decode(response, skip_special_tokens=True)
    assert output.history is not None
    record = SampleRecord(
        prompt_tokens=[tokenizer.token_text(token) for token in sequence[1:prompt_length]],
        tokens=[tokenizer.token_text(token) for token in sequence[prompt_length:]],
        opened_step=output.history.opened_step[0, prompt_length:].tolist(),
        confidence=output.history.confidence[0, prompt_length:].nan_to_num(0.0).tolist(),
        text=text + completion,
        meta={"algorithm": config.alg, "seed": str(output.seed)},
    )
    result = {"completion": completion, "seed": output.seed, "num_forward": output.num_forward}
    return record, result
