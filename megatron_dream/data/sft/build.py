"""From a run's configuration to the sft stage's streams, and the hash that says which stream it is.

What data/build.py is for pretraining: the same questions and answers, prepared samples instead of rows
cut from text. ``sft.task`` says which: prompts with answers, or texts with a gap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...config.schema import DataConfig, DiffusionConfig, RunConfig, SourceConfig
from ...errors import DataError
from ...tokenizer.base import Tokenizer
from ..build import token_ids
from ..cache import INDEX_WAIT_SECONDS, default_cache_folder, digest_of, make_cache_folder
from ..infilling.stream import InfillStream
from ..infilling.text_files import BlendTexts, TextFiles
from ..order import BlendOrder, SampleOrder
from ..stream import stream_seed
from .samples import AnswerFiles, BlendSamples, LengthOrder
from .stream import SftStream


@dataclasses.dataclass
class Built:
    """A stream, and what below it other processes build and hashes hold."""

    stream: SftStream | InfillStream
    blend: BlendOrder
    sizes: list[int]  # samples of each source
    identities: Callable[[], list[dict[str, Any]]]


def build_sft_streams(
    config: RunConfig,
    tokenizer: Tokenizer,
    *,
    stage: str = "sft",
    train_samples: int,
    valid_samples: int = 0,
    barrier: Callable[[], object] | None = None,
    is_builder: bool = True,
    is_checker: bool = True,
    wait_seconds: float = INDEX_WAIT_SECONDS,
) -> tuple[SftStream | InfillStream, SftStream | InfillStream | None, str]:
    """Open and blend a run's prepared samples.

    Args:
        config: of the run.
        tokenizer: the run's; files that another one made are refused.
        stage: part of the noise's key.
        train_samples: ordinals planned; more of them later change nothing.
        valid_samples: ordinals of a validation; 0 or no data.valid: no validation stream.
        barrier: waits for all processes, between the building of a blend's table and its use.
        is_builder: whether this process writes that table.
        is_checker: whether it reads whole indices, one a node.
        wait_seconds: how long a shared file system may take to show what was built.

    Returns:
        Training stream, validation stream or None, and the index hash, which a checkpoint stores.

    Raises:
        DataError: files that are missing, broken, of another tokenizer or kind, or samples that are
            longer than a row.
    """
    built = open_sft_sources(
        config, tokenizer, stage, train_samples, valid_samples, thorough=is_checker
    )
    for one in built:
        if is_builder and not one.blend.is_built:
            make_cache_folder(cache_folder(config))
            one.blend.build()
    if barrier is not None:
        barrier()
    for one in built:
        one.blend.check(with_content=is_checker, wait_seconds=wait_seconds)
    return sft_streams_of(config, built)


def cache_folder(config: RunConfig) -> Path:
    """Where a blend's table lies."""
    return Path(config.data.cache_folder or default_cache_folder(config.data.train[0].prefix))


def open_sft_sources(
    config: RunConfig,
    tokenizer: Tokenizer,
    stage: str,
    train_samples: int,
    valid_samples: int,
    *,
    thorough: bool,
) -> list[Built]:
    """Open and check a run's samples, training first, and build nothing.

    Raises:
        DataError: as ``build_sft_streams``.
    """
    data = _data_of(config)
    task = _answers if config.sft.task == "answer" else _texts
    folder = cache_folder(config)
    make = partial(task, config, tokenizer, stage=stage, folder=folder, thorough=thorough)
    built = [make(data, config.diffusion, data.train, split="train", ordinals=train_samples)]
    if config.data.valid and valid_samples:
        # Validation is that of stream 0, so that its losses compare; a mask without its complement.
        diffusion = dataclasses.replace(config.diffusion, complementary=False)
        sources = config.data.valid
        built.append(make(config.data, diffusion, sources, split="valid", ordinals=valid_samples))
    return built


def sft_streams_of(
    config: RunConfig, built: list[Built]
) -> tuple[SftStream | InfillStream, SftStream | InfillStream | None, str]:
    """Training stream, validation stream or None, and the index hash; tables must be built."""
    valid = built[1].stream if built[1:] else None
    return built[0].stream, valid, _index_hash(config, _data_of(config), built[0])


def _data_of(config: RunConfig) -> DataConfig:
    """The section with the seed of the present stream."""
    return dataclasses.replace(
        config.data, seed=stream_seed(config.data.seed, config.data.new_stream)
    )


def _answers(
    config: RunConfig,
    tokenizer: Tokenizer,
    data: DataConfig,
    diffusion: DiffusionConfig,
    configured: list[SourceConfig],
    *,
    stage: str,
    split: str,
    folder: Path,
    thorough: bool,
    ordinals: int,
) -> Built:
    """Prompts and answers of ``configured``."""
    sft, fingerprint = config.sft, tokenizer.fingerprint
    sources = [
        AnswerFiles(source.prefix, token_ids(tokenizer), fingerprint, thorough=thorough)
        for source in configured
    ]
    for source in sources:
        _check_length(source.files.prefix, source.longest_row(), data.sequence_length)
    group = sft.truncation_group_size or config.training.global_batch_size
    # Whole groups and windows: their members' lengths are asked for.
    planned = -(-ordinals // group) * group
    if sft.length_group_size:
        planned = LengthOrder.planned(planned, sft.length_group_size)
    blend = BlendOrder([source.weight for source in configured], planned, folder)
    order = SampleOrder([len(source) for source in sources], blend, data.seed)
    stream = SftStream(
        BlendSamples(sources, order),
        data,
        diffusion,
        sft,
        mask_id=tokenizer.mask_id,
        pad_id=tokenizer.pad_id,
        end_id=tokenizer.eos_id if sft.response_end == "endoftext" else tokenizer.im_end_id,
        group_size=group,
        stage=stage,
        split=split,
    )
    if sft.length_group_size:
        key, length_of = stream.noise.key, partial(_total, sources)
        by_length = LengthOrder(order, length_of, sft.length_group_size, key)
        stream.samples = BlendSamples(sources, by_length)
    return Built(stream, blend, order.sizes, lambda: [source.identity() for source in sources])


def _texts(
    config: RunConfig,
    tokenizer: Tokenizer,
    data: DataConfig,
    diffusion: DiffusionConfig,
    configured: list[SourceConfig],
    *,
    stage: str,
    split: str,
    folder: Path,
    thorough: bool,
    ordinals: int,
) -> Built:
    """Texts of ``configured``, with a gap each."""
    sources = [
        TextFiles(source.prefix, tokenizer.fingerprint, thorough=thorough) for source in configured
    ]
    for source in sources:
        _check_length(source.prefix, source.max_tokens, data.sequence_length)
    blend = BlendOrder([source.weight for source in configured], ordinals, folder)
    order = SampleOrder([len(source) for source in sources], blend, data.seed)
    stream = InfillStream(
        BlendTexts(sources, order),
        tokenizer,
        data,
        diffusion,
        config.sft,
        stage=stage,
        split=split,
    )
    return Built(stream, blend, order.sizes, lambda: [source.identity() for source in sources])


def _total(sources: list[AnswerFiles], member: tuple[int, int]) -> int:
    source, index = member
    return sum(sources[source].lengths(index))


def _check_length(prefix: Path, longest: int, sequence_length: int) -> None:
    if longest > sequence_length:
        raise DataError(
            f"{prefix} has a sample of {longest} tokens with what stands around it, data.sequence_length is "
            f"{sequence_length}; raise it, or prepare the data with --max-length {sequence_length}."
        )


def _index_hash(config: RunConfig, data: DataConfig, train: Built) -> str:
    """Which sample stands at which ordinal, and what it is cut to, as one hex string."""
    sft, weights = config.sft, train.blend.weights
    return digest_of(
        {
            "sources": train.identities(),
            "weights": [round(weight / sum(weights), 12) for weight in weights],
            "seed": data.seed,
            "sequence_length": data.sequence_length,
            "complementary": config.diffusion.complementary,
            "group": sft.truncation_group_size or config.training.global_batch_size,
            "length_group_size": sft.length_group_size,
        }
    )
