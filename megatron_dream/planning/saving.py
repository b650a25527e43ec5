"""What a save costs: bytes on disk, host memory, and how long training stands still.

``fully_reshardable`` gathers the optimizer of a whole TP x PP part into the host memory of every
data-parallel rank; ``dp_reshardable`` writes each rank's shard. Weights are written once, shared out
over the data-parallel ranks (FullyParallelSaveStrategyWrapper). docs/checkpoints.md measures both.
"""

from __future__ import annotations

from dataclasses import dataclass

from .communication import data_group
from .efficiency import Efficiency
from .hardware import GIB, Gpu
from .job import Job
from .parameters import stage_parameters

LARGE_MODEL = 1_000_000_000  # parameters; checkpoint/state.py: choose_optimizer_format
_FORMATS = ("dp_reshardable", "fully_reshardable")
_FORK_SECONDS = 0.1  # to hand an asynchronous save to its process


@dataclass(frozen=True)
class SaveCost:
    """Of one checkpoint."""

    optimizer_format: str
    disk_bytes: float  # whole checkpoint
    host_bytes_per_rank: float
    host_bytes_per_node: float
    fits_host: bool
    write_seconds: float  # of the slowest node
    stall_seconds: float  # training stands still, written at once
    async_stall_seconds: float  # written in the background


def save_cost(job: Job, gpu: Gpu, efficiency: Efficiency, requested: str = "auto") -> SaveCost:
    """Cost of a save.

    Args:
        job: the run.
        gpu: with its node's host memory and what it writes a second.
        efficiency: of the network, for the gather.
        requested: ``checkpoint.optimizer_format``.
    """
    chosen = _format(job, requested)
    layout, states = job.layout, job.states
    kept = 4 + states.moments  # the fp32 weight is written, whatever it is kept as
    whole = max(stage_parameters(job, stage).total for stage in range(layout.pp))
    replicas = layout.dp * layout.cp
    weights = whole * job.activation_bytes / replicas
    if chosen == "fully_reshardable":
        host = whole * kept + weights
        spread = whole * kept if states.is_sharded else 0.0
        gather = data_group(job).gather_seconds(spread, gpu, efficiency) if spread else 0.0
    else:
        host, gather = whole * kept / states.shards + weights, 0.0
    ranks = min(gpu.gpus_per_node, layout.world_size)
    total = _all_parameters(job) * (kept + job.activation_bytes)
    nodes = -(-layout.world_size // gpu.gpus_per_node)
    write = total / nodes / (gpu.storage_gb_s * 1e9)
    copy = host / (gpu.host_gb_s * 1e9) + gather
    return SaveCost(
        optimizer_format=chosen,
        disk_bytes=total,
        host_bytes_per_rank=host,
        host_bytes_per_node=host * ranks,
        fits_host=host * ranks <= 0.9 * gpu.host_memory_gib * GIB,
        write_seconds=write,
        stall_seconds=copy + write,
        async_stall_seconds=copy + _FORK_SECONDS,
    )


def save_costs(
    job: Job, gpu: Gpu, efficiency: Efficiency, requested: str = "auto"
) -> tuple[SaveCost, ...]:
    """Of the format that is chosen, and of the other one where it can be had."""
    chosen = _format(job, requested)
    formats = [chosen]
    formats += [name for name in _FORMATS if name != chosen and job.states.is_sharded]
    return tuple(save_cost(job, gpu, efficiency, name) for name in formats)


def _format(job: Job, requested: str) -> str:
    if requested != "auto":
        return requested
    return "dp_reshardable" if _all_parameters(job) > LARGE_MODEL else "fully_reshardable"


def _all_parameters(job: Job) -> int:
    layout = job.layout
    return layout.tp * sum(stage_parameters(job, stage).total for stage in range(layout.pp))
