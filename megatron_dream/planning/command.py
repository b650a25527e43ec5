"""``megatron-dream plan``: read a configuration, predict, show."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.load import load_config
from ..config.schema import RunConfig
from ..data.budget import parse_tokens
from ..errors import ConfigError, LayoutError
from ..files import atomic_write
from .advice import Advice, advice, batches_that_divide
from .efficiency import Efficiency
from .hardware import find_gpu
from .job import Precision
from .limits import scaling_limit
from .page import plan_page
from .plan import Plan, plan
from .search import SearchResult, search
from .text import advice_lines, as_json, plan_lines, search_lines

EXIT_DOES_NOT_FIT = 1


def run_plan(
    config: Path,
    gpus: int,
    gpu: str,
    *,
    overrides: Sequence[tuple[str, str]] = (),
    do_search: bool = False,
    top: int = 12,
    precision: Precision | None = None,
    token_budget: str | None = None,
    stage: str = "pretrain",
    html: Path | None = None,
    as_json_text: bool = False,
) -> int:
    """Predict memory, time and cost of a run and print them.

    Args:
        config: the run's YAML file.
        gpus: how many.
        gpu: name in the table, or a YAML file of a GPU's numbers.
        overrides: fields of the configuration, as typed.
        do_search: rank all legal layouts; the configuration's own may then be illegal.
        top: layouts to show.
        precision: in place of the configuration's.
        token_budget: of the whole run, such as ``322B``.
        stage: what the run is for.
        html: a page to write.
        as_json_text: print JSON instead of text.

    Returns:
        0, or 1 where nothing fits.

    Raises:
        UserError: a wrong configuration, GPU or layout.
    """
    if gpus < 1:
        raise ConfigError(f"--gpus must be at least 1, it is {gpus}.")
    if top < 1:
        raise ConfigError(f"--top must be at least 1, it is {top}.")
    run: RunConfig = load_config(config, overrides)
    device, budget = find_gpu(gpu), _tokens(token_budget)
    if not budget and not run.training.train_steps:
        raise ConfigError(
            "training.train_steps is 0, so that the run has no length; give it or --token-budget N."
        )
    reached = device.reached
    options = {
        "precision": precision,
        "token_budget": budget,
        "stage": stage,
        "efficiency": reached,
    }
    result = search(run, gpus, device, **options) if do_search else None  # type: ignore[arg-type]
    try:
        own: Plan | None = plan(run, gpus, device, **options)  # type: ignore[arg-type]
    except LayoutError as error:
        if result is None:
            raise
        own = None
        print(f"The configuration's own layout is not legal: {error}", file=sys.stderr)
    changes = _advice(run, own, precision, reached, stage) if own else ()
    best = result.ranked[0] if result and result.ranked else None
    shown = own or best
    if as_json_text:
        print(json.dumps(as_json(own, changes, result), indent=1))
    else:
        print("\n".join(_lines(run, gpus, own, changes, result, top)))
    if html is not None:
        if shown is None:
            raise ConfigError(
                "--html: no layout fits, so that there is nothing to show; give more GPUs."
            )
        with atomic_write(html) as stream:
            hints = list(advice_lines(changes, batches_that_divide(run, gpus), gpus))
            page = plan_page(shown, title=config.stem, hints=hints, result=result, top=top)
            stream.write(page)
    return 0 if _something_fits(own, result) else EXIT_DOES_NOT_FIT


def _advice(
    run: RunConfig, own: Plan, precision: Precision | None, reached: Efficiency, stage: str
) -> tuple[Advice, ...]:
    return advice(run, own, precision=precision, efficiency=reached, stage=stage)


def _lines(
    run: RunConfig,
    gpus: int,
    own: Plan | None,
    changes: tuple[Advice, ...],
    result: SearchResult | None,
    top: int,
) -> list[str]:
    lines = [*plan_lines(own), scaling_limit(own.job.layout).sentence()] if own else []
    lines += advice_lines(changes, batches_that_divide(run, gpus), gpus)
    if result is not None:
        lines += ["", *search_lines(result, top)]
    if result and result.ranked and run.training.eval_interval:
        layout = result.ranked[0].job.layout
        rows = layout.micro_batch_size * layout.dp
        if run.training.eval_samples % rows:
            lines.append(f"The first needs training.eval_samples to be a multiple of {rows}.")
    return lines


def _something_fits(own: Plan | None, result: SearchResult | None) -> bool:
    if result is not None:
        return bool(result.ranked)
    return own is not None and own.fits


def _tokens(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_tokens(text)
    except ValueError as error:
        raise ConfigError(f"--token-budget {error}.") from None
