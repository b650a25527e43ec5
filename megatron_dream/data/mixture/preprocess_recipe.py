"""``preprocess --recipe``: every source of a mixture in turn, each as ``preprocess`` does one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError, UserError
from ..contamination import contamination_words
from ..preprocessing import PreprocessResult, preprocess
from ..preprocessing.mpi import from_root, start_mpi
from ..readers import list_inputs
from .recipe import Recipe, RecipeSource, load_recipe

# What a recipe says, by the names of the command's options; None or False: not given.
_OF_THE_RECIPE = (
    "input",
    "output_prefix",
    "tokenizer",
    "json_key",
    "template",
    "dataset",
    "suffixes",
    "filters",
    "append_eod",
    "special_tokens_in_text",
)


def preprocess_command(
    *, recipe: Path | None = None, source: Sequence[str] = (), **options: Any
) -> None:
    """Preprocess what the command line names: a recipe's sources, or one input.

    Args:
        recipe: of a mixture.
        source: names of its sources; none: all.
        options: the command's others, by the names of its flags; None where one was not given.

    Raises:
        UserError: flags that do not go together, or what ``preprocess`` refuses.
    """
    given = {name: options.pop(name) for name in _OF_THE_RECIPE}
    if recipe is None:
        _preprocess_input(given, source, options)
        return
    for name, value in given.items():
        if value:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{flag} and --recipe {recipe} both say what to preprocess; leave {flag} out, the recipe "
                f"holds it."
            )
    preprocess_recipe(load_recipe(recipe), source, **options)


def _preprocess_input(
    given: dict[str, Any], source: Sequence[str], options: dict[str, Any]
) -> None:
    from ..preprocessing import load_filters

    if source:
        raise ConfigError("--source names sources of a recipe; give --recipe FILE with it.")
    for name in ("input", "output_prefix", "tokenizer"):
        if not given[name]:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is missing; give it, or --recipe FILE of a mixture.")
    preprocess(
        given["input"],
        given["output_prefix"],
        given["tokenizer"],
        json_key=given["json_key"] or "text",
        append_eod=bool(given["append_eod"]),
        suffixes=given["suffixes"],
        dataset=given["dataset"],
        template=given["template"],
        filters=load_filters(given["filters"]) if given["filters"] else (),
        special_tokens_in_text=given["special_tokens_in_text"] or "as_text",
        **options,
    )


def preprocess_recipe(
    recipe: Recipe, names: Sequence[str] = (), *, use_mpi: bool = False, **options: Any
) -> list[PreprocessResult]:
    """Preprocess sources of a recipe, in its order; finished ones are checked and passed over.

    Args:
        recipe: of the mixture.
        names: of the sources; none: all.
        use_mpi: share the work out over MPI ranks.
        options: of ``preprocess``, beyond what the recipe says.

    Returns:
        What was written, on MPI rank 0; nothing on others and in tasks of an array.

    Raises:
        UserError: one source cannot be preprocessed; those before it are done, and the same call goes
            on behind them.
    """
    world = start_mpi() if use_mpi else None
    is_quiet = bool(options.get("quiet")) or (world is not None and world.Get_rank() != 0)
    sources = recipe.chosen(names)
    from_root(world, lambda: _check_inputs(sources, recipe))
    done: list[PreprocessResult] = []
    for number, source in enumerate(sources, start=1):
        if not is_quiet:
            print(f"{source.name}, source {number} of {len(sources)}:", flush=True)
        result = preprocess_source(recipe, source, use_mpi=use_mpi, **options)
        if result is not None:
            done.append(result)
    if not is_quiet:
        _print_closing(recipe, sources, done)
    return done


def preprocess_source(
    recipe: Recipe, source: RecipeSource, **options: Any
) -> PreprocessResult | None:
    """Preprocess one source as the recipe says; options are those of ``preprocess`` beyond it."""
    return preprocess(
        source.input,
        recipe.prefix(source),
        recipe.tokenizer,
        json_key=source.text or "text",
        append_eod=recipe.append_eod,
        suffixes=source.suffixes or None,
        dataset=source.dataset,
        template=source.template,
        source=source.name,
        filters=recipe.filters_of(source),
        special_tokens_in_text=recipe.special_tokens_in_text,
        **options,
    )


def _check_inputs(sources: Sequence[RecipeSource], recipe: Recipe) -> None:
    """Find what is missing before hours are spent on the sources in front of it."""
    for source in sources:
        try:
            list_inputs(source.input, source.suffixes or source.adapter.suffixes or (".py",))
        except UserError as error:
            fetch = (
                " Its texts are fetched with tools/fetch_swh.py."
                if source.adapter.needs_fetch
                else ""
            )
            raise DataError(
                f"{source.where}: the input of {source.name} is not there: {error}{fetch} Other sources are "
                f"preprocessed with --source NAME."
            ) from None
        for spec in recipe.filters_of(source):
            for path in map(Path, spec.options.input_files()):
                if not path.exists():
                    raise DataError(f"{spec.where}: {path} is not there; check the path.")


def _print_closing(
    recipe: Recipe, sources: Sequence[RecipeSource], done: Sequence[PreprocessResult]
) -> None:
    if len(done) < len(sources):
        return  # a task of an array
    words = contamination_words((one.name, recipe.evaluation_sets(one)) for one in sources)
    documents, tokens = sum(r.documents for r in done), sum(r.tokens for r in done)
    print(f"{len(done)} sources: {documents:,} documents, {tokens:,} tokens; {words}.")
