"""What every stage trains with, built or brought back: model, optimizer, schedule, log, checkpoints."""

from __future__ import annotations

import dataclasses
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
from ..errors import CheckpointError
from ..model.build import build_model
from ..model.initialize import set_rows_to_mean
from ..model.specs import resolve_layer_spec
from ..parallel import Ranks
from ..tokenizer.base import Tokenizer
from ..tokenizer.load import load_tokenizer
from .identity import check_initial_weights, check_resume, resolve_vocabulary, run_metadata
from .log import RunLog
from .optimizer import build_optimizer, build_scheduler, wrap_data_parallel
from .provenance import origin_of, provenance, resumed
from .watch.watch import Watch


@dataclasses.dataclass
class Engine:
    """What every stage trains with: the wrapped model, its optimizer, where it stands, and who is told.

    Attributes:
        model: wrapped chunks of this process.
        optimizer: megatron-core's.
        scheduler: of its rate.
        metadata: of the next checkpoint; a resumed run's step and place in the data.
        writer: of checkpoints; None in a dry run.
        log: of the run.
        watch: over this process.
    """

    model: list[Any]
    optimizer: Any
    scheduler: Any
    metadata: CheckpointMetadata
    writer: CheckpointWriter | None
    log: RunLog
    watch: Watch = dataclasses.field(default_factory=Watch)


def prepare(config: RunConfig, stage: str) -> tuple[Tokenizer, Layout, Ranks]:
    """Check a configuration, fill in what follows from it, start the process groups.

    Raises:
        UserError: anything that a person can mend, on every process alike.
    """
    validate(config, stage)
    config.model = resolve_model(config.model)
    tokenizer = load_tokenizer(config.tokenizer.path)  # type: ignore[arg-type]
    resolve_vocabulary(config, tokenizer)
    config.model.layer_spec = resolve_layer_spec(config.model)
    layout = resolve_layout(config, parallel.launched_world_size(), stage)
    return tokenizer, layout, parallel.start(config.parallel, seed=config.training.seed)


def build_engine(
    config: RunConfig,
    stage: str,
    tokenizer: Tokenizer,
    layout: Layout,
    ranks: Ranks,
    *,
    index_hash: str,
    variable_lengths: bool,
    dry_run: bool,
    watch: Watch | None = None,
) -> Engine:
    """Model, optimizer and schedule, new, from ``checkpoint.init_from``, or from the run's last checkpoint.

    Args:
        config: of the run, prepared.
        stage: what it is for.
        tokenizer: the run's.
        layout: of the processes.
        ranks: this process's place.
        index_hash: of the data and its order; a run does not go on with another.
        variable_lengths: micro-batches differ in width.
        dry_run: nothing is written.
        watch: over this process, started; None: nothing is watched.

    Raises:
        CheckpointError: what there is cannot be used.
        ConfigError: the run started too often without progress.
    """
    watch = watch or Watch()
    folder = Path(config.checkpoint.run_folder)
    checkpoints = folder / "checkpoints"
    saved = last_checkpoint(config)
    watch.begin_run(saved.step if saved else 0, layout.equation())
    metadata = run_metadata(config, tokenizer, layout, index_hash, stage)
    metadata.trained = provenance(config)
    chunks = build_model(
        config.model,
        config.parallel,
        config.training,
        ranks,
        objective=config.diffusion.objective,
        variable_lengths=variable_lengths,
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
    if ranks.rank == 0 and not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        save_resolved(config, folder / "config.yaml")
    log = RunLog(
        None if dry_run else folder,
        config.logging,
        config.training.train_steps,
        enabled=ranks.reports,
        first_step=metadata.step,
    )
    log.say(layout.equation())
    writer = CheckpointWriter(
        checkpoints,
        ranks,
        keep_last=config.checkpoint.keep_last,
        asynchronous=config.checkpoint.async_save,
    )
    return Engine(wrapped, optimizer, scheduler, metadata, None if dry_run else writer, log, watch)


def last_checkpoint(config: RunConfig) -> CheckpointMetadata | None:
    """What the run's last checkpoint is of; None where there is none yet."""
    checkpoints = Path(config.checkpoint.run_folder) / "checkpoints"
    if not (checkpoints / LATEST).is_file():
        return None
    return read_metadata(resolve_checkpoint(checkpoints))


def data_position(saved: CheckpointMetadata | None, new_stream: int) -> CheckpointMetadata:
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
    position = data_position(saved, here.new_stream)
    return dataclasses.replace(
        here,
        step=position.step,
        consumed_samples=position.consumed_samples,
        skipped_ranges=position.skipped_ranges,
        earlier_samples=position.earlier_samples,
        trained=resumed(saved.trained, here.trained),
    )
