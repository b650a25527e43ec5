"""From a run's configuration to its streams of rows, and the hash that says which stream it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ..config.schema import DataConfig, RunConfig, SourceConfig
from ..errors import ConfigError, DataError
from ..tokenizer.base import Tokenizer
from .cache import default_cache_folder, digest_of, make_cache_folder
from .indexed import check_sidecar, inspect_token_files
from .order import BlendOrder
from .pretrain import BlendRows, SourceRows, TokenIds
from .stream import NoisedStream


def build_streams(
    config: RunConfig,
    tokenizer: Tokenizer,
    *,
    stage: str = "pretrain",
    train_samples: int,
    valid_samples: int = 0,
    barrier: Callable[[], object] | None = None,
    is_builder: bool = True,
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
        barrier: waits for all processes; called once, after the builders are done.
        is_builder: whether this process writes missing indices: one a node, or one in all where the
            cache folder is shared.

    Returns:
        Training stream, validation stream or None, and the index hash, which a checkpoint stores;
        it does not depend on ``train_samples``.

    Raises:
        DataError: files that are missing, foreign, truncated, too small or of another tokenizer.
        ConfigError: data.train is empty.
    """
    data = config.data
    if not data.train:
        raise ConfigError("data.train lists no source; give at least one prefix of token files.")
    folder = Path(data.cache_folder or default_cache_folder(data.train[0].prefix))
    if is_builder:
        make_cache_folder(folder)
    per_sample = 2 if config.diffusion.complementary else 1
    train = _blend(
        data, data.train, "train", -(-train_samples // per_sample), tokenizer, folder, is_builder
    )
    valid = None
    if data.valid and valid_samples:
        valid = _blend(data, data.valid, "valid", valid_samples, tokenizer, folder, is_builder)
    if is_builder:
        for blend in (train, valid):
            _build(blend)
    if barrier is not None:
        barrier()
    return (
        _stream(config, train, tokenizer, stage, "train"),
        None if valid is None else _stream(config, valid, tokenizer, stage, "valid"),
        _index_hash(config, train),
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


def _build(blend: BlendRows | None) -> None:
    if blend is None:
        return
    for source in blend.sources:
        source.build()
    blend.order.build()


def _stream(
    config: RunConfig, rows: BlendRows, tokenizer: Tokenizer, stage: str, split: str
) -> NoisedStream:
    data, diffusion = config.data, config.diffusion
    if split == "valid":
        data = dataclasses.replace(data, random_length=0.0)
        diffusion = dataclasses.replace(diffusion, complementary=False)
    return NoisedStream(rows, token_ids(tokenizer), data, diffusion, stage=stage, split=split)


def _index_hash(config: RunConfig, train: BlendRows) -> str:
    """Which clean row stands at which ordinal, as one hex string."""
    data = config.data
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
