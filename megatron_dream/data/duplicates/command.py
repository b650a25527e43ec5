"""``find-duplicates``: from what a person names to a pass, over one corpus or a whole mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ...errors import ConfigError
from ..mixture.recipe import load_recipe
from ..preprocessing.command import adapter_of, load_filters
from .exact import ExactSigner, Signer
from .find import PassSource, find_duplicates, pass_source
from .near import MinhashParameters, NearSigner


def run_find_duplicates(
    *,
    input: Sequence[str] | None,
    recipe: Path | None,
    output: Path,
    method: str,
    normalisation: str,
    words: str,
    n_grams: int,
    num_buckets: int,
    hashes_per_bucket: int,
    json_key: str,
    template: str | None,
    dataset: str | None,
    suffixes: Sequence[str] | None,
    filters: Path | None,
    workers: int,
    mpi: bool,
    shard_mb: float,
) -> None:
    """Run the pass that the command line describes; arguments are its flags.

    Raises:
        UserError: one sentence.
    """
    if (input is None) == (recipe is None):
        raise ConfigError("find-duplicates takes --input or --recipe; give one of them.")
    if workers < 1:
        raise ConfigError(f"--workers is {workers}; give 1 or more.")
    shard_bytes = int(shard_mb * 1e6)
    make_signer: Callable[[], Signer] = partial(ExactSigner, normalisation)
    if method == "near":
        parameters = MinhashParameters(
            n_grams,
            num_buckets,
            hashes_per_bucket,
            words=words,  # type: ignore[arg-type]  # argparse checks it
        )
        if not mpi:  # else every rank would say it
            print(parameters.describe())
        make_signer = partial(NearSigner, parameters)
    if recipe is not None:
        sources = sources_of_recipe(recipe, shard_bytes)
    else:
        source = pass_source(
            input or (),
            adapter_of(dataset, json_key, template),
            suffixes=suffixes,
            filters=load_filters(filters) if filters else (),
            shard_bytes=shard_bytes,
        )
        sources = [source]
    find_duplicates(sources, output, make_signer, workers=workers, use_mpi=mpi)


def sources_of_recipe(path: Path, shard_bytes: int) -> list[PassSource]:
    """All sources of a mixture, in its order, each behind the filters that it will pass."""
    recipe = load_recipe(path)
    return [
        pass_source(
            source.input,
            source.adapter,
            name=source.name,
            suffixes=source.suffixes,
            filters=recipe.filters_of(source),
            shard_bytes=shard_bytes,
        )
        for source in recipe.sources
    ]
