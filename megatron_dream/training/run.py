"""``pretrain`` and ``sft``: from a configuration to a trained checkpoint. Configure, build, train, close."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from .. import parallel
from ..checkpoint.load import load_training_state, load_weights
from ..checkpoint.metadata import LATEST, CheckpointMetadata, read_metadata, resolve_checkpoint
from ..checkpoint.save import CheckpointWriter
from ..checkpoint.state import choose_optimizer_format
from ..config.layout import Layout, resolve_layout
from ..config.load import save_resolved
from ..config.presets import resolve_model
from ..config.schema import RunConfig
from ..config.validate import validate
from ..data.budget import parse_tokens
from ..data.build import build_streams
from ..data.loader import merge_ranges, ordinal_of
from ..data.sft.build import build_sft_streams
from ..data.stream import Stream
from ..errors import CheckpointError, ConfigError
from ..model.build import build_model
from ..model.initialize import set_rows_to_mean
from ..model.specs import resolve_layer_spec
from ..parallel import Ranks
from ..tokenizer.base import Tokenizer
from ..tokenizer.load import load_tokenizer
from .identity import check_initial_weights, check_resume, resolve_vocabulary, run_metadata
from .log import RunLog
from .loop import TrainingLoop
from .optimizer import build_optimizer, build_scheduler, wrap_data_parallel
from .provenance import origin_of, provenance, resumed


def pretrain(config: RunConfig, dry_run: int | None = None) -> int:
    """Train on rows of text; see ``train``."""
    return train(config, "pretrain", dry_run)


def sft(config: RunConfig, dry_run: int | None = None) -> int:
    """Train on prompts and answers, or on texts to infill; see ``train``."""
    return train(config, "sft", dry_run)


def train(config: RunConfig, stage: str, dry_run: int | None = None) -> int:
    """Train to ``training.train_steps``, from the run folder's last checkpoint if there is one.

    Args:
        config: the run; presets may still be unresolved.
        stage: what it trains on; part of the noise's key.
        dry_run: stop after this many steps; nothing is written into the run folder.

    Returns:
        Exit code 0.

    Raises:
        UserError: anything that a person can mend, on every process alike.
    """
    validate(config, stage)
    config.model = resolve_model(config.model)
    tokenizer = load_tokenizer(config.tokenizer.path)  # type: ignore[arg-type]
    resolve_vocabulary(config, tokenizer)
    config.model.layer_spec = resolve_layer_spec(config.model)
    layout = resolve_layout(config, parallel.launched_world_size(), stage)
    ranks = parallel.start(config.parallel, seed=config.training.seed)
    loop = _build(config, stage, tokenizer, layout, ranks, dry_run)
    try:
        loop.train(stop_after=dry_run)
    finally:
        loop.close()
    return 0


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
    samples = _planned_ordinals(config, None)
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
    dry_run: int | None,
) -> TrainingLoop:
    folder = Path(config.checkpoint.run_folder)
    checkpoints = folder / "checkpoints"
    saved = _last_checkpoint(checkpoints)
    train_stream, valid_stream, index_hash = _streams(
        config, stage, tokenizer, ranks, _planned_ordinals(config, saved)
    )
    metadata = run_metadata(config, tokenizer, layout, index_hash, stage)
    metadata.trained = provenance(config)
    chunks = build_model(
        config.model,
        config.parallel,
        config.training,
        ranks,
        objective=config.diffusion.objective,
        variable_lengths=not train_stream.has_one_width,
    )
    if config.checkpoint.init_from and saved is None:
        _load_initial(config, chunks, metadata, tokenizer, ranks)
    wrapped = wrap_data_parallel(chunks, config)
    optimizer = build_optimizer(wrapped, config)
    scheduler = build_scheduler(optimizer, config)
    metadata.optimizer_format = choose_optimizer_format(
        config.checkpoint.optimizer_format, wrapped, ranks
    )
    metadata.has_optimizer = True
    if saved is not None:
        metadata = _resume(checkpoints, wrapped, optimizer, scheduler, metadata, ranks)
    is_real = dry_run is None
    if ranks.rank == 0 and is_real:
        folder.mkdir(parents=True, exist_ok=True)
        save_resolved(config, folder / "config.yaml")
    log = RunLog(
        folder if is_real else None,
        config.logging,
        config.training.train_steps,
        enabled=ranks.reports,
    )
    log.say(layout.equation())
    log.say(f"Training data: {metadata.trained['training data']}")
    writer = CheckpointWriter(
        checkpoints,
        ranks,
        keep_last=config.checkpoint.keep_last,
        asynchronous=config.checkpoint.async_save,
    )
    return TrainingLoop(
        config=config,
        layout=layout,
        ranks=ranks,
        model=wrapped,
        optimizer=optimizer,
        scheduler=scheduler,
        train_stream=train_stream,
        valid_stream=valid_stream,
        metadata=metadata,
        writer=writer if is_real else None,
        log=log,
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


def _last_checkpoint(checkpoints: Path) -> CheckpointMetadata | None:
    if not (checkpoints / LATEST).is_file():
        return None
    return read_metadata(resolve_checkpoint(checkpoints))


def _planned_ordinals(config: RunConfig, saved: CheckpointMetadata | None) -> int:
    """How many ordinals the run has passed at its end.

    Consumed ones are counted as they were: the global batch may be another since.
    """
    training = config.training
    position = _data_position(saved, config.data.new_stream)
    steps = max(0, training.train_steps - position.step)
    samples = position.consumed_samples + steps * training.global_batch_size
    skipped = merge_ranges([(first, end) for first, end in position.skipped_ranges])
    return ordinal_of(samples - 1, skipped) + 1


def _data_position(saved: CheckpointMetadata | None, new_stream: int) -> CheckpointMetadata:
    """Step and place in the data that a run goes on from; a new stream starts at ordinal 0."""
    if saved is None:
        return CheckpointMetadata(model={})
    if new_stream <= saved.new_stream:
        return saved
    earlier = saved.earlier_samples + saved.consumed_samples
    return dataclasses.replace(
        saved, consumed_samples=0, skipped_ranges=[], earlier_samples=earlier
    )


def _load_initial(
    config: RunConfig,
    chunks: list[Any],
    here: CheckpointMetadata,
    tokenizer: Tokenizer,
    ranks: Ranks,
) -> None:
    """Start from other weights; rows of tokens that it never saw become the mean of ordinary rows."""
    source = str(config.checkpoint.init_from)
    saved = read_metadata(resolve_checkpoint(source))
    check_initial_weights(saved, here, source, override=config.checkpoint.init_override)
    load_weights(source, chunks, ranks)
    here.trained["initial weights"] = origin_of(saved)
    new = []
    if saved.objective == "ar" and config.diffusion.objective == "diffusion":
        new.append(tokenizer.mask_id)
    if config.sft.task == "infill" and not _knows_expand(saved):
        new.append(tokenizer.expand_id)
    if new:
        set_rows_to_mean(chunks, new, min(tokenizer.added_tokens), ranks)


def _knows_expand(saved: CheckpointMetadata) -> bool:
    """Whether a checkpoint's ``<|expand|>`` was trained: here, or in an imported DreamOn."""
    is_imported = saved.stage is None and "imported_from" in saved.trained
    return saved.sft.get("task") == "infill" or (
        is_imported and "expand" in saved.special_token_ids
    )


def _resume(
    checkpoints: Path,
    wrapped: list[Any],
    optimizer: Any,
    scheduler: Any,
    here: CheckpointMetadata,
    ranks: Ranks,
) -> CheckpointMetadata:
    folder = resolve_checkpoint(checkpoints)
    saved = read_metadata(folder)
    if not saved.has_optimizer:
        raise CheckpointError(
            f"{folder} holds weights only; set checkpoint.init_from to it instead"
        )
    check_resume(saved, here, str(folder))
    load_training_state(folder, wrapped, optimizer, scheduler, ranks)
    position = _data_position(saved, here.new_stream)
    return dataclasses.replace(
        here,
        step=position.step,
        consumed_samples=position.consumed_samples,
        skipped_ranges=position.skipped_ranges,
        earlier_samples=position.earlier_samples,
        trained=resumed(saved.trained, here.trained),
    )
