"""From a run's configuration to its streams of rows, and the hash that says which stream it is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config.schema import DataConfig, RunConfig, SourceConfig
from ..errors import ConfigError, DataError
from ..tokenizer.base import Tokenizer
from .cache import (
    INDEX_WAIT_SECONDS,
    default_cache_folder,
    digest_of,
    make_cache_folder,
)
from .indexed import check_sidecar, inspect_token_files
from .order import BlendOrder
from .pretrain import BlendRows, SourceRows, TokenIds
from .stream import NoisedStream, stream_seed

MAX_BUILDING_RANKS = 8  # of a job that builds its own indices: as many as wait on one node


def build_streams(
    config: RunConfig,
    tokenizer: Tokenizer,
    *,
    stage: str = "pretrain",
    train_samples: int,
    valid_samples: int = 0,
    barrier: Callable[[], object] | None = None,
    is_builder: bool = True,
    is_checker: bool = True,
    num_ranks: int = 1,
    wait_seconds: float = INDEX_WAIT_SECONDS,
    report: Callable[[str], object] = lambda line: None,
) -> tuple[NoisedStream, NoisedStream | None, str]:
    """Open, index and blend a run's token files.

    Validation has its own documents (data.valid), its own noise, fixed from one validation to the
    next, and neither random lengths nor complementary pairs.

    Args:
        config: of the run.
        tokenizer: the run's; files that another one made are refused.
        stage: part of the noise's key.
        train_samples: ordinals planned, skipped ones included; more of them later change nothing.
        valid_samples: ordinals of a validation; 0 or no data.valid: no validation stream.
        barrier: waits for all processes; called when the builders are done, and when the checkers
            are.
        is_builder: whether this process writes missing indices: one a node, or one in all where the
            cache folder is shared.
        is_checker: whether it compares the indices' checksums, one a node; others look at sizes.
        num_ranks: processes of the job; a large one does not build unless
            ``data.build_index_in_job`` says so.
        wait_seconds: how long a shared file system may take to show what was built.
        report: is told of every index built.

    Returns:
        Training stream, validation stream or None, and the index hash, which a checkpoint stores;
        it does not depend on ``train_samples``.

    Raises:
        DataError: files that are missing, foreign, truncated, too small or of another tokenizer;
            an index that does not become whole.
        ConfigError: data.train is empty, or an index is missing that this job may not build.
    """
    blends = open_blends(config, tokenizer, train_samples, valid_samples, thorough=is_builder)
    missing = blends.missing()
    check_may_build(config, len(missing), blends.folder, num_ranks)
    if is_builder:
        _build(missing, blends.folder, report)
    if barrier is not None:
        barrier()
    for index in blends.indices():
        index.check(with_content=is_checker, wait_seconds=wait_seconds)
    if barrier is not None:
        barrier()
    return streams_of(config, tokenizer, stage, blends)


@dataclasses.dataclass(frozen=True)
class Blends:
    """A run's sources, opened and checked; their indices may be missing.

    Attributes:
        data: of the configuration, with the seed of the present stream.
        folder: of the indices.
        train: rows to train on.
        valid: rows to validate on, if any.
    """

    data: DataConfig
    folder: Path
    train: BlendRows
    valid: BlendRows | None

    def indices(self) -> list[SourceRows | BlendOrder]:
        """Everything that is built beforehand, in order."""
        found: list[SourceRows | BlendOrder] = []
        for blend in (self.train, self.valid):
            found += [] if blend is None else [*blend.sources, blend.order]
        return found

    def missing(self) -> list[SourceRows | BlendOrder]:
        """Those of them that are not there."""
        return [index for index in self.indices() if not index.is_built]


def open_blends(
    config: RunConfig,
    tokenizer: Tokenizer,
    train_samples: int,
    valid_samples: int,
    *,
    thorough: bool,
) -> Blends:
    """Open and check a run's token files, and build nothing; arguments are ``build_streams``'s.

    Raises:
        DataError, ConfigError: as ``build_streams``.
    """
    if not config.data.train:
        raise ConfigError("data.train lists no source; give at least one prefix of token files.")
    # Validation is that of stream 0, so that its losses compare.
    data = dataclasses.replace(
        config.data, seed=stream_seed(config.data.seed, config.data.new_stream)
    )
    folder = Path(data.cache_folder or default_cache_folder(data.train[0].prefix))
    per_sample = 2 if config.diffusion.complementary else 1
    train = _blend(
        data, data.train, "train", -(-train_samples // per_sample), tokenizer, folder, thorough
    )
    valid = None
    if data.valid and valid_samples:
        valid = _blend(config.data, data.valid, "valid", valid_samples, tokenizer, folder, thorough)
    return Blends(data, folder, train, valid)


def check_may_build(config: RunConfig, missing: int, folder: Path, num_ranks: int) -> None:
    """Refuse a large job that would have to build its own indices.

    Raises:
        ConfigError: so many are missing.
    """
    if missing and num_ranks > MAX_BUILDING_RANKS and not config.data.build_index_in_job:
        raise ConfigError(
            f"{missing} indices of the data are missing in {folder}, and {num_ranks} processes "
            f"would wait for one to build them; run `megatron-dream build-index --config FILE.yaml` "
            f"with this run's configuration first, or set data.build_index_in_job: true."
        )


def streams_of(
    config: RunConfig, tokenizer: Tokenizer, stage: str, blends: Blends
) -> tuple[NoisedStream, NoisedStream | None, str]:
    """Training stream, validation stream or None, and the index hash; indices must be built."""
    data, valid = blends.data, blends.valid
    return (
        _stream(config, data, blends.train, tokenizer, stage, "train"),
        None if valid is None else _stream(config, config.data, valid, tokenizer, stage, "valid"),
        _index_hash(config, data, blends.train),
    )


def token_ids(tokenizer: Tokenizer) -> TokenIds:
    """The ids that rows are made with."""
    return TokenIds(tokenizer.vocab_size, tokenizer.mask_id, tokenizer.bos_id, tokenizer.eod_id)


def _blend(
    data: DataConfig,
    configured: list[SourceConfig],
    split: str,
    size: int,
    tokenizer: Tokenizer,
    folder: Path,
    thorough: bool,
) -> BlendRows:
    ids, fingerprint = token_ids(tokenizer), tokenizer.fingerprint
    sources = []
    for position, source in enumerate(configured):
        if not source.weight > 0 or source.weight == float("inf"):
            raise DataError(
                f"data.{split}[{position}].weight is {source.weight}; give a positive number or "
                f"drop {source.prefix}."
            )
        files = inspect_token_files(source.prefix, thorough=thorough)
        check_sidecar(files, fingerprint, ids.eod_id, needs_eod=data.document_masks)
        rows = SourceRows(
            files,
            ids,
            row_tokens=data.sequence_length - data.bos_per_sample,
            position=position,
            seed=data.seed,
            split=split,
            cache_folder=folder,
        )
        sources.append(rows)
    order = BlendOrder([source.weight for source in configured], size, folder)
    return BlendRows(sources, order, ids.bos_id if data.bos_per_sample else None)


def _build(
    missing: Sequence[SourceRows | BlendOrder], folder: Path, report: Callable[[str], object]
) -> None:
    make_cache_folder(folder)
    for index in missing:
        started = time.monotonic()
        index.build()
        made = index.folder if isinstance(index, SourceRows) else index.folder()
        size = sum(file.stat().st_size for file in made.iterdir())
        report(f"{made}: {size / 1e6:,.1f} MB in {time.monotonic() - started:,.1f} s")


def _stream(
    config: RunConfig,
    data: DataConfig,
    rows: BlendRows,
    tokenizer: Tokenizer,
    stage: str,
    split: str,
) -> NoisedStream:
    diffusion = config.diffusion
    if split == "valid":
        data = dataclasses.replace(data, random_length=0.0)
        diffusion = dataclasses.replace(diffusion, complementary=False)
    return NoisedStream(rows, token_ids(tokenizer), data, diffusion, stage=stage, split=split)


def _index_hash(config: RunConfig, data: DataConfig, train: BlendRows) -> str:
    """Which clean row stands at which ordinal, as one hex string; a stream's seed is part of it."""
    total = sum(train.order.weights)
    return digest_of(
        {
            "sources": [source.identity() for source in train.sources],
            "weights": [round(weight / total, 12) for weight in train.order.weights],
            "seed": data.seed,
            "sequence_length": data.sequence_length,
            "bos_per_sample": data.bos_per_sample,
            "document_masks": data.document_masks,
            "random_length": data.random_length,
            "complementary": config.diffusion.complementary,
        }
    )
