"""``megatron-dream sample`` and ``infill``: text in, text out; the sampler of training and export."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import atomic_write
from ..sampling.blocks import plan_blocks
from ..sampling.infill import GapConfig, check_growing
from ..sampling.sampling_config import SamplingConfig
from .generate import Sample, encode_prompts, generate, sampling_config
from .growing import fill
from .order.record import write_history
from .page import write_page
from .prompts import DEFAULT_MARK, Gap, Json, Prompt, read_gaps, read_prompts
from .sampler import load_model
from .sampling_flags import OF_GROWTH, flag_name, in_flags
from .terminal import print_sample

DEFAULT_LENGTH = 32


def run_sample(
    model: Path | str,
    prompt: str | None = None,
    prompt_file: Path | None = None,
    jsonl: Path | None = None,
    *,
    chat: bool = False,
    output: Path | None = None,
    page: Path | None = None,
    history: Path | None = None,
    batch_size: int | None = None,
    weights: str | None = None,
    **options: Any,
) -> None:
    """Generate for every prompt; print, and write JSON lines and a page where asked.

    Args:
        model: exported folder or checkpoint.
        prompt: one prompt's text.
        prompt_file: a file with one prompt.
        jsonl: a file with one object with ``prompt`` or ``messages`` a line.
        chat: a prompt is a user's message, put into the tokenizer's chat template.
        output: JSON lines, one a sample: the prompt's record with ``completion``,
            ``sample_index`` (0 to num_return_sequences - 1), ``seed`` and ``num_forward``.
        page: HTML that plays every sample.
        history: JSON lines of the order in which tokens opened, for ``megatron-dream order``.
        batch_size: prompts that run together; changes speed and nothing else.
        weights: see load_model.
        options: fields of SamplingConfig.

    Raises:
        UserError: model, prompts, files or options are not what they should be.
        ValueError: a prompt does not fit the model.
    """
    check_options(options, batch_size)
    prompts = read_prompts(prompt, prompt_file, jsonl, chat)
    _run(model, weights, prompts, options, output, page, batch_size, history=history)


def run_infill(
    model: Path | str,
    prefix: str | None = None,
    suffix: str | None = None,
    file: Path | None = None,
    jsonl: Path | None = None,
    *,
    mark: str = DEFAULT_MARK,
    length: int | None = None,
    grow: bool = False,
    output: Path | None = None,
    page: Path | None = None,
    batch_size: int | None = None,
    weights: str | None = None,
    **options: Any,
) -> None:
    """Fill a gap between two texts; print and write as ``run_sample`` does.

    Args:
        model: exported folder or checkpoint.
        prefix: the text before.
        suffix: the text after; may be empty.
        file: both texts, with ``mark`` where the gap is.
        jsonl: a file with one object with ``prefix`` and ``suffix`` a line.
        mark: what stands in ``file`` for the gap, once.
        length: tokens of a gap that stays as long as it is (32).
        grow: the gap begins with ``masks`` and finds its length (sampling/infill.py).
        output: JSON lines with ``middle`` in place of ``completion``.
        page: HTML that plays every sample.
        batch_size: gaps that run together; changes speed and nothing else.
        weights: see load_model.
        options: fields of SamplingConfig but those of appended tokens and their blocks; with ``grow`` those
            of GapConfig too.

    Raises:
        UserError: model, texts, files or options are not what they should be.
    """
    growth = {name: options.pop(name) for name in OF_GROWTH if name in options}
    _check_growth(growth, grow, length, options)
    size = 0 if grow else DEFAULT_LENGTH if length is None else length
    gaps = read_gaps(prefix, suffix, file, mark, jsonl, size)
    options = {**({} if grow else {"steps": size}), **options, "max_new_tokens": 0}
    check_options(options, batch_size)
    if grow:
        _run_growing(model, weights, gaps, options, growth, output, page, batch_size)
    else:
        _run(model, weights, gaps, options, output, page, batch_size, keeps_length=True)


def _check_growth(growth: Json, grow: bool, length: int | None, options: Json) -> None:
    """Refuse flags of the one kind of gap with the other, before a model is loaded."""
    if not grow:
        if growth:
            raise ConfigError(
                f"{flag_name(next(iter(growth)))} goes with --grow: give both or none"
            )
        if length is not None and length < 1:
            raise ConfigError(f"--length is {length}: give the number of masks between, 1 or more")
        return
    if length is not None:
        raise ConfigError(
            "--length is of a gap that keeps it: leave it out with --grow, or give --masks"
        )
    ids = {"mask_token_id": 0, "pad_token_id": 1, "eos_token_id": 1}
    try:
        check_growing(SamplingConfig(**{**ids, **options}), GapConfig(2, **growth))
    except ValueError as error:
        raise ConfigError(in_flags(str(error))) from None


def _run_growing(
    model: Path | str,
    weights: str | None,
    gaps: list[Gap],
    options: Json,
    growth: Json,
    output: Path | None,
    page: Path | None,
    batch_size: int | None,
) -> None:
    if not gaps:
        raise ConfigError("there is no gap in the file: give one line or more")
    sampler = load_model(model, weights)
    config = sampling_config(sampler, **options)
    made = fill(sampler, gaps, config, GapConfig(**growth), batch_size)
    _put_out(made, len(gaps), output, page)


def check_options(options: Json, batch_size: int | None = None) -> None:
    """Refuse what the sampler would, in the names of the flags and before a model is loaded.

    Raises:
        ConfigError: naming the flag, its value and what is allowed.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}: give a whole number of at least 1.")
    try:
        ids = {"mask_token_id": 0, "pad_token_id": 0, "eos_token_id": 0}
        plan_blocks(1, SamplingConfig(**{**ids, **options}).resolved())
    except ValueError as error:
        raise ConfigError(in_flags(str(error))) from None


def _run(
    model: Path | str,
    weights: str | None,
    prompts: Sequence[Prompt],
    options: Json,
    output: Path | None,
    page: Path | None,
    batch_size: int | None,
    keeps_length: bool = False,
    history: Path | None = None,
) -> None:
    if not prompts:
        raise ConfigError("there is no prompt in the file: give one line or more")
    sampler = load_model(model, weights)
    if keeps_length:  # a token that stands for more room has none to take
        forbidden = [*options.get("forbidden_token_ids", ()), sampler.tokenizer.expand_id]
        options = {**options, "forbidden_token_ids": forbidden}
    config = sampling_config(sampler, **options)
    rows = encode_prompts(sampler, prompts, config)
    made = generate(sampler, prompts, rows, config, batch_size)
    samples = _put_out(made, len(prompts), output, page)
    if history is not None:
        write_history(history, sampler, prompts, rows, config, samples)


def _put_out(
    made: Iterable[list[Sample]], count: int, output: Path | None, page: Path | None
) -> list[Sample]:
    """Show samples as they come; write the files at the end; returns all samples."""
    samples: list[Sample] = []
    with _progress(made, count) as watched:
        for of_prompt in watched:
            for sample in of_prompt:
                _show(sample)
            samples += of_prompt
    if output is not None:
        with atomic_write(output) as stream:
            stream.writelines(json.dumps(s.line, ensure_ascii=False) + "\n" for s in samples)
    if page is not None:
        write_page(page, [sample.record for sample in samples], title="Megatron-Dream samples")
    return samples


@contextlib.contextmanager
def _progress(made: Iterable[Any], count: int) -> Iterator[Iterable[Any]]:
    """``made``; with a bar on a terminal and for more than one prompt."""
    if count < 2 or not sys.stderr.isatty():
        yield made
        return
    from rich.console import Console
    from rich.progress import Progress

    # What goes to a file or a pipe must not be caught by the bar.
    console = Console(stderr=True)
    with Progress(console=console, redirect_stdout=sys.stdout.isatty()) as bar:
        yield bar.track(made, total=count, description="sampling")


def _show(sample: Sample) -> None:
    """Coloured and harmless on a terminal, the bare text elsewhere."""
    if sys.stdout.isatty():
        print_sample(sample.record)
    else:
        print(sample.text, flush=True)
