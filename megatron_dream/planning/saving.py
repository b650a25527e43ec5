"""What a save costs: bytes on disk, host memory, and how long training stands still.

``fully_reshardable`` gathers the optimizer of a whole TP x PP part into the host memory of every
data-parallel rank; ``dp_reshardable`` writes each rank's shard. Weights are written once, whole tensors
dealt out over the data-parallel ranks. Host memory is what a run compares with the node's before step 1
(checkpoint/host_memory.py), told from the shape; docs/checkpoints.md has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..checkpoint.host_memory import GATHER_BYTES
from ..checkpoint.shards import STATE_BYTES, deal_out
from .communication import data_group
from .efficiency import Efficiency
from .hardware import GIB, Gpu
from .job import Job
from .parameters import parameter_sizes, stage_parameters

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
    ranks = min(gpu.gpus_per_node, layout.world_size)
    needs = [_host_memory(job, stage, chosen) for stage in range(layout.pp)]
    written, host = max(need[0] for need in needs), max(need[1] for need in needs)
    gather = 0.0
    if chosen == "fully_reshardable" and states.is_sharded:
        largest = max(stage_parameters(job, stage).buffer for stage in range(layout.pp))
        gather = data_group(job).gather_seconds(STATE_BYTES * largest, gpu, efficiency)
    total = _all_parameters(job) * (_state_bytes(job) + job.activation_bytes)
    nodes = -(-layout.world_size // gpu.gpus_per_node)
    write = total / nodes / (gpu.storage_gb_s * 1e9)
    copy = written / (gpu.host_gb_s * 1e9) + gather
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


def _host_memory(job: Job, stage: int, chosen: str) -> tuple[float, float]:
    """(bytes that a rank of ``stage`` writes, bytes of host memory at once), the fullest rank's.

    On a GPU what is written goes through pinned memory, whose blocks are powers of two: the double.
    """
    replicas, parameters = job.layout.dp * job.layout.cp, stage_parameters(job, stage)
    share = _largest_share(tuple(parameter_sizes(job, stage)), replicas)
    weights = float(share * job.activation_bytes)
    if not job.states.is_sharded:
        written = weights + share * _state_bytes(job)
        return written, 2 * written
    if chosen == "dp_reshardable":
        written = weights + STATE_BYTES * parameters.buffer / job.states.shards
        return written, 2 * written
    clones = STATE_BYTES * share
    on_the_way = (GATHER_BYTES + STATE_BYTES / replicas) * parameters.largest_bucket
    gathered = STATE_BYTES * parameters.buffer + max(on_the_way, clones + 2 * weights)
    return weights + clones, gathered


@lru_cache(maxsize=4096)
def _largest_share(sizes: tuple[int, ...], ranks: int) -> int:
    """Elements that the fullest of ``ranks`` writes of tensors that all of them hold."""
    return max(deal_out(list(sizes), [0] * ranks)[1])


def _state_bytes(job: Job) -> float:
    """A parameter's in the checkpoint: a distributed optimizer's are fp32, whatever they are kept as."""
    return STATE_BYTES if job.states.is_sharded else job.states.main + job.states.moments


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
    if not job.states.is_sharded:
        return "fully_reshardable"  # there are no shards
    return "dp_reshardable" if _all_parameters(job) > LARGE_MODEL else "fully_reshardable"


def _all_parameters(job: Job) -> int:
    layout = job.layout
    return layout.tp * sum(stage_parameters(job, stage).total for stage in range(layout.pp))
