"""``plan-data``: a recipe, or a run's blend, looked at before anything is spent on it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...config.load import load_config
from ...config.schema import RunConfig
from ...errors import ConfigError, DataError
from ...tokenizer.load import load_tokenizer
from ..budget import parse_tokens
from ..preprocessing.command import free_bytes
from ..preprocessing.job import small_vocabulary
from .blend import write_blend
from .found import find_source, token_files
from .plan import Entry, MixturePlan, Target, make_plan
from .plan_report import plan_values, print_plan
from .recipe import Recipe, RecipeSource, load_recipe

SEQUENCE_LENGTH = 2048  # where neither a flag nor a configuration says another


@dataclass(frozen=True)
class _Rows:
    """What flags and a run's configuration say of rows."""

    sequence_length: int
    global_batch_size: int | None
    token_budget: int | None


def plan_data(
    recipe: Path | str | None = None,
    *,
    config: Path | str | None = None,
    config_out: Path | str | None = None,
    sequence_length: int | None = None,
    global_batch_size: int | None = None,
    token_budget: int | str | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> MixturePlan:
    """Say what a mixture takes, and write the blend of a run.

    Args:
        recipe: of the mixture.
        config: a run's configuration: its rows and batch hold where no flag is given, the rest of it
            goes into ``config_out``; without a recipe its own blend is looked at. A recipe may be
            given here too.
        config_out: YAML file to write with the blend.
        sequence_length: tokens of a row.
        global_batch_size: rows of a step; without it no steps are told.
        token_budget: instead of the recipe's; text as in a recipe, such as ``10B``.
        as_json: print JSON.
        quiet: print nothing.

    Raises:
        UserError: the recipe, the configuration or token files cannot be used.
    """
    if recipe is None and config is not None and _is_recipe(Path(config)):
        recipe, config = config, None
    base = None if config is None else load_config(config)
    rows = _rows(base, sequence_length, global_batch_size, token_budget)
    if recipe is not None:
        read = load_recipe(recipe)
        plan = plan_recipe(read, rows)
        tokenizer, folder = read.tokenizer, read.output
    elif base is None:
        raise ConfigError("plan-data needs --recipe FILE, or --config FILE of a run.")
    else:
        plan = plan_run(base, rows)
        tokenizer, folder = base.tokenizer.path or "", ""
    if not quiet:
        _print(plan, as_json)
    if config_out is not None:
        write_blend(plan, Path(config_out), tokenizer=tokenizer, folder=folder, base=base)
        print(f"{config_out}: data.train of {len(plan.sources)} sources", file=sys.stderr)
    return plan


def plan_recipe(recipe: Recipe, rows: _Rows) -> MixturePlan:
    """Plan a recipe by what lies of its sources."""
    entries = [
        Entry(
            name=source.name,
            weight=source.weight,
            found=find_source(recipe, source),
            sets=tuple(recipe.evaluation_sets(source)),
            needs_fetch=source.adapter.needs_fetch,
            filters=_filters(recipe, source),
        )
        for source in recipe.sources
    ]
    budget = rows.token_budget or int(recipe.token_budget or 0)
    target = _target(rows, budget, recipe.tokenizer, entries, recipe.append_eod)
    return make_plan(entries, target, free_bytes(Path(recipe.output)))


def _filters(recipe: Recipe, source: RecipeSource) -> list[dict[str, Any]] | None:
    """As the sidecar of token files has them; None where a file that one of them needs is not here."""
    try:
        identities = [spec.identity() for spec in recipe.filters_of(source)]
    except DataError:
        return None
    return cast(list[dict[str, Any]], json.loads(json.dumps(identities)))


def plan_run(config: RunConfig, rows: _Rows) -> MixturePlan:
    """Plan the blend that a run's configuration has."""
    steps, batch = config.training.train_steps, rows.global_batch_size or 1
    budget = rows.token_budget or steps * batch * rows.sequence_length
    if not budget or not config.data.train:
        missing = "data.train" if not config.data.train else "training.train_steps"
        raise ConfigError(f"{missing} is not given; set it, or plan a mixture with --recipe FILE.")
    entries = []
    for number, source in enumerate(config.data.train):
        if not 0 < source.weight < float("inf"):
            raise DataError(
                f"data.train.{number}.weight must be above 0, it is {source.weight:g}; or leave the source "
                f"out."
            )
        name = source.name or Path(source.prefix).name
        entries.append(Entry(name, source.weight, token_files([Path(source.prefix)])))
    return make_plan(entries, _target(rows, budget, config.tokenizer.path, entries, None))


def _rows(
    base: RunConfig | None, length: int | None, batch: int | None, budget: int | str | None
) -> _Rows:
    if base is not None:
        length = base.data.sequence_length if length is None else length
        batch = base.training.global_batch_size if batch is None else batch
    length = SEQUENCE_LENGTH if length is None else length
    for flag, value, least in (("sequence-length", length, 2), ("global-batch-size", batch, 1)):
        if value is not None and value < least:
            raise ConfigError(f"--{flag} is {value}; give {least} or more.")
    try:
        return _Rows(length, batch, None if budget is None else parse_tokens(str(budget)))
    except ValueError as error:
        raise ConfigError(f"--token-budget {error}.") from None


def _target(
    rows: _Rows, budget: int, tokenizer: str | None, entries: list[Entry], append_eod: bool | None
) -> Target:
    """The target, with what the tokenizer tells if it is there, else what token files tell."""
    fingerprint, is_small = None, False
    files = [one for entry in entries for one in entry.found.files]
    if tokenizer and Path(tokenizer).exists():
        loaded = load_tokenizer(tokenizer)
        fingerprint, is_small = loaded.fingerprint, small_vocabulary(loaded.vocab_size)
    elif files:
        is_small = all(np.dtype(one.dtype).itemsize == 2 for one in files)
    return Target(
        token_budget=budget,
        sequence_length=rows.sequence_length,
        global_batch_size=rows.global_batch_size,
        itemsize=2 if is_small else 4,
        fingerprint=fingerprint,
        append_eod=append_eod,
        missing_tokenizer=tokenizer if fingerprint is None and tokenizer else "",
    )


def _print(plan: MixturePlan, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan_values(plan), indent=2, ensure_ascii=False))
    else:
        print_plan(plan)


def _is_recipe(path: Path) -> bool:
    """Whether a file has the sources of a recipe, which no run's configuration has."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # its reader tells why
    return re.search(r"^sources:", text, re.MULTILINE) is not None
