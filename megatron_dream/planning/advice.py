"""Single changes of a configuration that the model says would pay, other layouts apart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..config.schema import RunConfig
from ..errors import LayoutError
from .efficiency import DEFAULT, Efficiency
from .job import Precision
from .plan import Plan, plan

_WORTH = 0.01  # share of the step's time
_NEAR = 1.25  # batches up to so many times larger or smaller


@dataclass(frozen=True)
class Advice:
    """One change, and what it would gain."""

    change: str  # as on the command line
    seconds: float  # of a step, less
    share: float  # of the step's time
    memory_bytes: float  # on the worst rank, more


def advice(
    config: RunConfig,
    present: Plan,
    *,
    precision: Precision | None = None,
    efficiency: Efficiency = DEFAULT,
    stage: str = "pretrain",
) -> tuple[Advice, ...]:
    """Changes worth a hundredth of a step and more, the best first; each alone, none tried together."""
    found = []
    for words, changed in _changes(config):
        try:
            other = plan(
                changed,
                present.job.layout.world_size,
                present.gpu,
                precision=precision,
                token_budget=present.token_budget,
                efficiency=efficiency,
                stage=stage,
            )
        except LayoutError:
            continue
        gain = 1.0 - other.step.total / present.step.total
        if gain >= _WORTH and other.fits:
            more = other.memory.total - present.memory.total
            found.append(Advice(words, present.step.total - other.step.total, gain, more))
    return tuple(sorted(found, key=lambda change: -change.share))


def _changes(config: RunConfig) -> list[tuple[str, RunConfig]]:
    parallel, training, model = config.parallel, config.training, config.model
    changes = []
    if parallel.use_distributed_optimizer and not parallel.overlap_param_gather:
        overlapped = dataclasses.replace(
            parallel, overlap_grad_reduce=True, overlap_param_gather=True
        )
        words = "--parallel.overlap_grad_reduce true --parallel.overlap_param_gather true"
        changes.append((words, dataclasses.replace(config, parallel=overlapped)))
    for rows in (1024, 4096):
        if rows > model.head_chunk_rows:
            larger = dataclasses.replace(model, head_chunk_rows=rows)
            changes.append(
                (f"--model.head_chunk_rows {rows}", dataclasses.replace(config, model=larger))
            )
    if training.recompute != "none":
        none = dataclasses.replace(
            training,
            recompute="none",
            recompute_modules=["core_attn"],
            recompute_method="uniform",
            recompute_num_layers=1,
        )
        changes.append(("--training.recompute none", dataclasses.replace(config, training=none)))
    return changes


def batches_that_divide(config: RunConfig, num_gpus: int) -> tuple[int, ...]:
    """Global batches near the configured one that ``num_gpus`` data-parallel ranks divide.

    Empty where the configured one does. Few layouts are legal where it does not: TP x PP x CP must make
    up what the batch lacks.
    """
    batch = config.training.global_batch_size
    if batch % num_gpus == 0:
        return ()
    below, above = batch // num_gpus * num_gpus, -(-batch // num_gpus) * num_gpus
    return tuple(size for size in (below, above) if batch / _NEAR <= size <= batch * _NEAR)
