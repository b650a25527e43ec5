"""``pretrain | sft | rl --dry-run N``: everything that a job of N processes decides before its first step.

In the order of a run: configuration, layout, tokenizer, data, what it starts from; then every class of ranks
is built on tensors without memory, and the files of a save and the communicators follow from them. The first
thing that would stop the job raises the job's own sentence.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from pathlib import Path

from ..checkpoint.choose import Choice, foreseen_choice
from ..checkpoint.host_memory import memory_fault
from ..checkpoint.load import check_optimizer_layout
from ..checkpoint.metadata import (
    read_metadata,
    resolve_checkpoint,
    verify_files,
)
from ..config.layout import Layout, resolve_layout
from ..config.memory_options import PRECISION_FIELDS
from ..config.presets import resolve_model
from ..config.schema import ModelConfig, OptimizerConfig, RunConfig
from ..config.validate import validate
from ..errors import CheckpointError, ConfigError, LayoutError
from ..model.build import padded_vocab_size
from ..parallel import launched_world_size
from ..planning.job import state_share
from ..rl.run import asked_of, check_rl_layout, complete
from ..tokenizer.base import Tokenizer
from ..tokenizer.load import load_tokenizer
from ..training.identity import (
    check_initial_weights,
    check_resume,
    resolve_vocabulary,
    run_metadata,
)
from ..training.throughput import layer_parameters
from .communicators import communicators, node_warnings
from .data import DataReport, rehearse_data
from .files import SavePlan, save_plan
from .report import Report
from .shapes import RankClass, rank_classes
from .world import on_cpu, quiet


def run_rehearsal(
    config: RunConfig,
    stage: str,
    world_size: int,
    *,
    gpus_per_node: int,
    with_files: bool,
    as_json: bool,
) -> int:
    """Rehearse, and print what was found; arguments are ``rehearse``'s.

    Returns:
        Exit code 0.

    Raises:
        UserError: what would stop the job.
    """
    if launched_world_size() > 1:
        raise ConfigError(
            "--dry-run N imagines N processes in one; start it without a launcher (--try-steps N runs "
            "N steps)"
        )
    report = rehearse(config, stage, world_size, gpus_per_node=gpus_per_node, with_files=with_files)
    print(json.dumps(report.as_dict(), indent=2) if as_json else "\n".join(report.lines()))
    return 0


def rehearse(
    config: RunConfig,
    stage: str,
    world_size: int,
    *,
    gpus_per_node: int = 8,
    with_files: bool = True,
) -> Report:
    """Everything that a job of ``world_size`` processes decides before its first step.

    Args:
        config: of the run; presets may still be unresolved. It is not changed.
        stage: pretrain, sft or rl.
        world_size: processes, one a GPU.
        gpus_per_node: processes of a node.
        with_files: open tokenizer, data and checkpoints; False where they lie elsewhere.

    Raises:
        UserError: what would stop the job, in its own words.
    """
    if world_size < 1:
        raise ConfigError(f"--dry-run must be at least 1, it is {world_size}.")
    if gpus_per_node < 1:
        raise ConfigError(f"--gpus-per-node must be above 0, it is {gpus_per_node}.")
    config = copy.deepcopy(config)
    validate(config, stage)
    if stage == "rl":
        complete(config)
    with on_cpu(), quiet():
        return _rehearse(config, stage, world_size, gpus_per_node, with_files)


def _rehearse(
    config: RunConfig, stage: str, world_size: int, gpus_per_node: int, with_files: bool
) -> Report:
    notes: list[str] = []
    warnings: list[str] = []
    config.model = resolve_model(config.model)
    tokenizer = _tokenizer(config, with_files, notes)
    layout = _layout(config, world_size, stage, notes, warnings)
    groups = communicators(layout, gpus_per_node)
    data, problems, start = None, None, "files were not opened"
    if tokenizer is not None:
        saved = foreseen_choice(Path(config.checkpoint.run_folder) / "checkpoints")
        if saved is not None and (sentence := saved.sentence()):
            warnings.append(sentence)
        if stage == "rl":
            _, problems = asked_of(config.rl.problems, config, tokenizer)
            asked_of(config.rl.valid, config, tokenizer)
        else:
            position = None if saved is None else saved.metadata
            data = rehearse_data(config, stage, tokenizer, layout, position)
            notes += data.notes
            warnings += data.warnings
        start = _start(config, stage, tokenizer, layout, saved, data)
    if stage == "rl" and config.rl.prompts_per_step < layout.dp:
        warnings.append(
            f"rl.prompts_per_step {config.rl.prompts_per_step} is below DP {layout.dp}: ranks without a "
            f"prompt wait while others decode"
        )
    varies = stage == "rl" or (data is not None and data.variable_lengths)
    share = _plain_optimizer(config, notes)
    classes = rank_classes(config, layout, variable_lengths=varies)
    for held in classes:
        held.optimizer_bytes = round(held.optimizer_bytes * share)
    plan = save_plan(classes)
    return Report(
        stage=stage,
        layout=layout,
        gpus_per_node=gpus_per_node,
        classes=classes,
        parameters=_parameters(config.model, layout, classes),
        save=plan,
        node_memory=_node_memory(config, classes, gpus_per_node),
        disk_bytes=_disk(config, plan),
        groups=groups,
        data=data,
        problems=problems,
        start=start,
        notes=notes,
        warnings=warnings + node_warnings(layout, groups, gpus_per_node),
    )


def _tokenizer(config: RunConfig, with_files: bool, notes: list[str]) -> Tokenizer | None:
    if with_files:
        tokenizer = load_tokenizer(config.tokenizer.path)  # type: ignore[arg-type]
        resolve_vocabulary(config, tokenizer)
        return tokenizer
    if not config.model.vocab_size:
        raise ConfigError(
            "model.vocab_size is the tokenizer's, which --without-files does not open; give the number "
            "of rows"
        )
    notes.append("--without-files: tokenizer, data and checkpoints were not opened")
    return None


def _layout(
    config: RunConfig, world_size: int, stage: str, notes: list[str], warnings: list[str]
) -> Layout:
    """The layout under the rules of the layers that the job will have; then local layers, to build."""
    asked = config.model.layer_spec
    layout = resolve_layout(config, world_size, stage)
    if stage == "rl":
        check_rl_layout(config, layout)
    if asked == "auto":
        config.model.layer_spec = "transformer_engine"
        try:
            resolve_layout(config, world_size, stage)
        except LayoutError as error:
            warnings.append(
                f"model.layer_spec: auto means transformer_engine where it is installed, and there the "
                f"job would stop: {error}"
            )
    if asked != "local":
        notes.append(
            f"model.layer_spec is {asked}: built with local layers, whose weights have the same shapes; what "
            f"Transformer Engine itself refuses is not checked"
        )
    config.model.layer_spec = "local"
    return layout


def _plain_optimizer(config: RunConfig, notes: list[str]) -> float:
    """Put plain Adam in place of an optimizer that needs a GPU, to build; the share of its bytes that counts.

    Shards and files are the same: a checkpoint holds fp32 (megatron-core: get_unscaled_state).
    """
    ours, default = config.optimizer, OptimizerConfig()
    share = 1.0
    if ours.use_precision_aware_optimizer or ours.optimizer_cpu_offload:
        share = state_share(ours)
        names = ("use_precision_aware_optimizer", "optimizer_cpu_offload")
        named = " and ".join(f"optimizer.{name}" for name in names if getattr(ours, name))
        notes.append(
            f"{named}: built with plain Adam, whose shards and files are the same; the optimizer's GB are "
            f"computed, and what the option itself refuses is not checked"
        )
        changed = {
            name: getattr(default, name)
            for name in (*names, "optimizer_offload_fraction", *PRECISION_FIELDS)
        }
        config.optimizer = dataclasses.replace(ours, **changed)
    return share


def _start(
    config: RunConfig,
    stage: str,
    tokenizer: Tokenizer,
    layout: Layout,
    saved: Choice | None,
    data: DataReport | None,
) -> str:
    """What the run starts from, checked as the run does; files by their sizes only."""
    here = run_metadata(config, tokenizer, layout, (data and data.index_hash) or "", stage)
    if saved is None and not config.checkpoint.init_from:
        return f"weights drawn with training.seed {config.training.seed}"
    if saved is None:
        source = str(config.checkpoint.init_from)
        folder = resolve_checkpoint(source)
        there = read_metadata(folder)
        check_initial_weights(there, here, source, override=config.checkpoint.init_override)
        if fault := verify_files(folder, there, part=-1):  # no part: sizes, no checksums
            raise CheckpointError(fault)
    else:
        folder, there = saved.folder, saved.metadata
        if not here.index_hash:  # indices are still to be built
            here = dataclasses.replace(here, index_hash=there.index_hash)
        check_resume(there, here, str(folder))
        check_optimizer_layout(there, folder, (layout.tp, layout.pp, layout.vp))
    what = "goes on from" if saved is not None else "weights of"
    return f"{what} {folder}, step {there.step:,} ({there.objective}); checksums were not compared"


def _parameters(model: ModelConfig, layout: Layout, classes: list[RankClass]) -> int:
    """Of the whole model, from what the ranks hold.

    Raises:
        LayoutError: it is not what the shape says.
    """
    whole = {t.key: (t.whole, t.itemsize) for held in classes for t in held.tensors}
    found = sum(elements for elements, _ in whole.values())
    expected = parameter_formula(model, padded_vocab_size(model.vocab_size, layout.tp))
    if found != expected:
        raise LayoutError(
            f"the ranks hold a model of {found:,} parameters, and its shape has {expected:,}; report this "
            f"layout as a fault [{layout.equation()}]"
        )
    return found


def parameter_formula(model: ModelConfig, rows: int) -> int:
    """Parameters of a model by its shape alone.

    Args:
        model: a whole shape.
        rows: of the table.
    """
    head_dim = model.hidden_size // model.num_attention_heads
    biases = head_dim * (model.num_attention_heads + 2 * model.num_query_groups)
    layer = layer_parameters(model) + 2 * model.hidden_size + (biases if model.add_qkv_bias else 0)
    tables = 1 if model.tie_word_embeddings else 2
    return model.num_layers * layer + model.hidden_size + tables * rows * model.hidden_size


def _node_memory(config: RunConfig, classes: list[RankClass], gpus_per_node: int) -> int:
    """Host memory of a save on the node where it is most.

    Raises:
        CheckpointError: it is more than ``checkpoint.host_memory_gb``.
    """
    needs: dict[int, list[int]] = {}
    for held in classes:
        for rank in held.members:
            needs.setdefault(rank // gpus_per_node, []).append(held.save.peak)
    node = max(needs, key=lambda number: sum(needs[number]))
    limit = config.checkpoint.host_memory_gb
    if limit is not None:
        fault = memory_fault(
            needs[node], f"node {node}", limit * 1e9, classes[0].optimizer_format, limit=True
        )
        if fault:
            raise CheckpointError(fault)
    return sum(needs[node])


def _disk(config: RunConfig, plan: SavePlan) -> int:
    """Of all checkpoints at once: those that are kept, and the one that is being written."""
    checkpoint, steps = config.checkpoint, config.training.train_steps
    saves = {steps} | {
        step
        for interval in (checkpoint.save_interval, checkpoint.export_interval)
        if interval
        for step in range(interval, steps + 1, interval)
    }
    kept = min(checkpoint.keep_last + 1, len(saves))
    if checkpoint.keep_every:
        counted = Counter(step % checkpoint.keep_every == 0 for step in saves)
        kept += counted[True]
    return min(kept, len(saves)) * plan.total
