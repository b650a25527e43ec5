"""What every stage trains with, built or brought back: model, optimizer, schedule, log, checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .. import device, parallel
from ..checkpoint.choose import Choice, choose_checkpoint, tidy
from ..checkpoint.fp8_state import layout_of, why_reset
from ..checkpoint.host_memory import check_saves
from ..checkpoint.load import load_training_state, load_weights
from ..checkpoint.metadata import CheckpointMetadata, read_metadata, resolve_checkpoint
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
from ..model.overlap import start_overlap
from ..model.specs import resolve_layer_spec
from ..parallel import Ranks
from ..tokenizer.base import Tokenizer
from ..tokenizer.load import load_tokenizer
from .determinism import set_determinism
from .features import check_features
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
        writer: of checkpoints; None in a trial.
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
    check_features(config)
    layout = resolve_layout(config, parallel.launched_world_size(), stage)
    set_determinism(config.training)
    return (
        tokenizer,
        layout,
        parallel.start(
            config.parallel, seed=config.training.seed, graphs=config.training.cuda_graphs
        ),
    )


def build_engine(
    config: RunConfig,
    stage: str,
    tokenizer: Tokenizer,
    layout: Layout,
    ranks: Ranks,
    *,
    index_hash: str,
    variable_lengths: bool,
    is_trial: bool,
    last: Choice | None = None,
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
        is_trial: nothing is written.
        last: the checkpoint to go on from, of ``last_checkpoint``; None: it is looked for here.
        watch: over this process, started; None: nothing is watched.

    Raises:
        CheckpointError: what there is cannot be used.
        ConfigError: the run started too often without progress.
    """
    watch = watch or Watch()
    folder = Path(config.checkpoint.run_folder)
    saved = last or last_checkpoint(config, ranks)
    watch.begin_run(saved.metadata.step if saved else 0, layout.equation())
    metadata = run_metadata(config, tokenizer, layout, index_hash, stage)
    metadata.trained = provenance(config)
    start_overlap(config, layout)
    chunks = build_model(
        config.model,
        config.parallel,
        config.training,
        ranks,
        objective=config.diffusion.objective,
        variable_lengths=variable_lengths,
        fp8=config.fp8,
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
    if not is_trial:
        _check_saves(config, wrapped, optimizer, metadata.optimizer_format, ranks)
    if saved is not None:
        metadata = _resume(saved, wrapped, optimizer, scheduler, metadata, ranks)
    if not is_trial:
        _begin_folder(config, ranks)
    log = RunLog(
        None if is_trial else folder,
        config.logging,
        config.training.train_steps,
        enabled=ranks.reports,
        first_step=metadata.step,
    )
    log.say(layout.equation())
    if saved is not None and (reason := why_reset(wrapped, saved.metadata, layout_of(ranks))):
        log.say(reason)
    writer = None
    if not is_trial:
        writer = _writer(config, ranks)
        _tidy(writer, saved, metadata.step, log)
    return Engine(wrapped, optimizer, scheduler, metadata, writer, log, watch)


def _check_saves(
    config: RunConfig, wrapped: list[Any], optimizer: Any, optimizer_format: str, ranks: Ranks
) -> None:
    """Refuse a run whose background saves would not fit the host's memory."""
    check_saves(
        wrapped,
        optimizer,
        ranks,
        optimizer_format,
        pins=device.device_type() == "cuda",
        limit_gb=config.checkpoint.host_memory_gb,
    )


def _writer(config: RunConfig, ranks: Ranks) -> CheckpointWriter:
    return CheckpointWriter(
        Path(config.checkpoint.run_folder) / "checkpoints",
        ranks,
        keep_last=config.checkpoint.keep_last,
        keep_every=config.checkpoint.keep_every,
        asynchronous=config.checkpoint.async_save,
        timeout_seconds=60 * config.faults.save_timeout_minutes,
    )


def _begin_folder(config: RunConfig, ranks: Ranks) -> None:
    """Make the run folder and write the configuration into it; every process calls this.

    Raises:
        CheckpointError: that failed, on every process.
    """
    folder, fault = Path(config.checkpoint.run_folder), None
    if ranks.rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_resolved(config, folder / "config.yaml")
        except OSError as error:
            fault = f"{folder} cannot be written ({error}); make room or name another folder"
    if fault := parallel.broadcast_object(fault):  # type: ignore[assignment]
        raise CheckpointError(fault)


def _tidy(writer: CheckpointWriter, last: Choice | None, step: int, log: RunLog) -> None:
    """Put the checkpoints in order after what a crash or a disk did to them."""
    writer.remove_unfinished()
    if last is None:
        return
    fault = tidy(last, writer.ranks)
    for sentence in (last.sentence(), fault):
        if sentence:
            log.fault(step, "checkpoint_passed_over", sentence)


def last_checkpoint(config: RunConfig, ranks: Ranks) -> Choice | None:
    """The run's newest checkpoint whose files are whole; None where there is none yet.

    Raises:
        CheckpointError: there are some and none is whole; on every process alike.
    """
    return choose_checkpoint(Path(config.checkpoint.run_folder) / "checkpoints", ranks)


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
    last: Choice,
    wrapped: list[Any],
    optimizer: Any,
    scheduler: Any,
    here: CheckpointMetadata,
    ranks: Ranks,
) -> CheckpointMetadata:
    folder, saved = last.folder, last.metadata
    if not saved.has_optimizer:
        raise CheckpointError(
            f"{folder} holds weights only; set checkpoint.init_from to it instead"
        )
    check_resume(saved, here, str(folder))
    load_training_state(folder, wrapped, optimizer, scheduler, ranks, verified=saved)
    position = data_position(saved, here.new_stream)
    return dataclasses.replace(
        here,
        step=position.step,
        consumed_samples=position.consumed_samples,
        skipped_ranges=position.skipped_ranges,
        earlier_samples=position.earlier_samples,
        faults=saved.faults if here.new_stream == saved.new_stream else {},
        trained=resumed(saved.trained, here.trained),
    )
