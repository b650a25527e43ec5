"""``pretrain`` and ``sft``: from a configuration to a trained checkpoint. Configure, build, train, close."""

from __future__ import annotations

import os
from typing import Any

from .. import parallel
from ..checkpoint.metadata import CheckpointMetadata
from ..config.layout import Layout
from ..config.schema import RunConfig
from ..config.validate import validate
from ..data.budget import parse_tokens
from ..data.build import build_streams
from ..data.loader import merge_ranges, ordinal_of
from ..data.sft.build import build_sft_streams
from ..data.stream import Stream
from ..errors import ConfigError
from ..parallel import Ranks
from ..tokenizer.base import Tokenizer
from ..tokenizer.load import load_tokenizer
from .batches import packs_rows
from .engine import build_engine, data_position, last_checkpoint, prepare
from .training_loop import TrainingLoop
from .watch.watch import Watch


def pretrain(config: RunConfig, try_steps: int | None = None) -> int:
    """Train on rows of text; see ``train``."""
    return train(config, "pretrain", try_steps)


def sft(config: RunConfig, try_steps: int | None = None) -> int:
    """Train on prompts and answers, or on texts to infill; see ``train``."""
    return train(config, "sft", try_steps)


def train(config: RunConfig, stage: str, try_steps: int | None = None) -> int:
    """Train to ``training.train_steps``, from the run folder's last checkpoint if there is one.

    Args:
        config: the run; presets may still be unresolved.
        stage: what it trains on; part of the noise's key.
        try_steps: stop after this many steps; nothing is written into the run folder.

    Returns:
        Exit code (exit_codes.py): 0, or 75 where it is to be run again.

    Raises:
        UserError: anything that a person can mend, on every process alike.
    """
    with Watch(config, writes=try_steps is None) as watch:
        tokenizer, layout, ranks = prepare(config, stage)
        watch.start(ranks)
        loop = _build(config, stage, tokenizer, layout, ranks, try_steps is not None, watch)
        try:
            return loop.train(stop_after=try_steps)
        finally:
            loop.close()


def build_index(config: RunConfig, token_budget: str | None = None) -> int:
    """Build a run's indices beforehand, in one process (``data.build_index_in_job``).

    Args:
        config: the run's.
        token_budget: tokens to plan for, such as 322B; None: those of ``training.train_steps``.

    Returns:
        Exit code 0.

    Raises:
        UserError: the data or the configuration cannot be used.
    """
    validate(config)
    tokenizer = load_tokenizer(config.tokenizer.path)  # type: ignore[arg-type]
    samples = planned_ordinals(config, None)
    if token_budget is not None:
        try:
            samples = -(-parse_tokens(token_budget) // config.data.sequence_length)
        except ValueError as error:
            raise ConfigError(f"--token-budget {error}.") from None
    _, _, index_hash = build_streams(
        config,
        tokenizer,
        stage="pretrain",
        train_samples=samples,
        valid_samples=config.training.eval_samples,
        report=print,
    )
    print(f"{samples:,} samples of {config.data.sequence_length} tokens; index {index_hash}")
    return 0


def _build(
    config: RunConfig,
    stage: str,
    tokenizer: Tokenizer,
    layout: Layout,
    ranks: Ranks,
    is_trial: bool,
    watch: Watch,
) -> TrainingLoop:
    last = last_checkpoint(config, ranks)
    planned = planned_ordinals(config, None if last is None else last.metadata)
    train_stream, valid_stream, index_hash = _streams(config, stage, tokenizer, ranks, planned)
    engine = build_engine(
        config,
        stage,
        tokenizer,
        layout,
        ranks,
        index_hash=index_hash,
        variable_lengths=not train_stream.has_one_width
        or (packs_rows(config.model, train_stream) and layout.cp > 1),
        is_trial=is_trial,
        last=last,
        watch=watch,
    )
    engine.log.say(f"Training data: {engine.metadata.trained['training data']}")
    return TrainingLoop(
        config=config,
        layout=layout,
        ranks=ranks,
        engine=engine,
        train_stream=train_stream,
        valid_stream=valid_stream,
        lengthened=lambda place: _streams(
            config, stage, tokenizer, ranks, planned_ordinals(config, place)
        )[0],
    )


def _streams(
    config: RunConfig, stage: str, tokenizer: Tokenizer, ranks: Ranks, train_samples: int
) -> tuple[Stream, Stream | None, str]:
    """Training and validation stream of the stage, and the index hash."""
    common: dict[str, Any] = {
        "train_samples": train_samples,
        "valid_samples": config.training.eval_samples,
        "barrier": parallel.barrier,
        "is_builder": ranks.rank == 0,
        "is_checker": os.environ.get("LOCAL_RANK", "0") == "0",
    }
    if stage == "sft":
        return build_sft_streams(config, tokenizer, stage=stage, **common)
    return build_streams(config, tokenizer, stage=stage, num_ranks=ranks.world_size, **common)


def planned_ordinals(config: RunConfig, saved: CheckpointMetadata | None) -> int:
    """How many ordinals the run has passed at its end.

    Consumed ones are counted as they were: the global batch may be another since.
    """
    training = config.training
    position = data_position(saved, config.data.new_stream)
    steps = max(0, training.train_steps - position.step)
    samples = position.consumed_samples + steps * training.global_batch_size
    skipped = merge_ranges([(first, end) for first, end in position.skipped_ranges])
    return ordinal_of(samples - 1, skipped) + 1
