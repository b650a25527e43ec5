"""Memory of one rank of each pipeline stage, by part."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .activations import chunk_bytes, norm_bytes, recomputed_bytes, working_bytes
from .efficiency import DEFAULT, Efficiency
from .hardware import GIB
from .job import Job
from .parameters import stage_parameters, table_rows
from .schedule import in_flight

# Outside torch's allocator. Not calibrated: sizes that the parts are known to take (docs/planning.md).
CUDA_CONTEXT_BYTES = 0.6 * GIB
COMMUNICATOR_BYTES = 0.35 * GIB  # channels of one NCCL communicator among more than one rank
FRAGMENTATION = 0.04  # of what torch allocates, with expandable segments


@dataclass(frozen=True)
class MemoryParts:
    """Bytes on one rank when they are most. The parts add up to ``total``."""

    weights: float
    gradients: float
    optimizer: float
    activations: float  # kept between forward and backward passes
    head: float  # output layer and loss on all rows: t can be 1
    buffers: float  # what a layer's backward pass or the update needs beyond that, workspaces
    outside: float  # CUDA context, NCCL, gaps in the allocator

    @property
    def allocated(self) -> float:
        """What torch's allocator hands out: torch.cuda.max_memory_allocated."""
        return self.total - self.outside

    @property
    def total(self) -> float:
        """What the device must have."""
        return sum(dataclasses.astuple(self))


def stage_memory(job: Job, stage: int, efficiency: Efficiency = DEFAULT) -> MemoryParts:
    """Of a rank of pipeline stage ``stage``."""
    states, factor = job.states, efficiency.activations
    workspace = efficiency.workspace_gib * GIB
    parameters = stage_parameters(job, stage)
    buffer = parameters.buffer if states.is_sharded else parameters.total
    weights = parameters.layers * job.weight_bytes
    weights += (buffer - parameters.layers) * job.activation_bytes
    optimizer = buffer / states.shards * (states.main + states.moments) * (1 - states.offloaded)
    activations = factor * kept_bytes(job, stage)
    head = factor * head_bytes(job) if stage == job.layout.pp - 1 else 0.0
    # Three moments, of which the greatest counts: in the head; in a layer's backward pass, when the head
    # has let go; in the update, when no activations are left.
    layer = factor * (layer_bytes_back(job, stage) + working_bytes(job))
    update = update_bytes(job, parameters.layers, buffer)
    passing = max(0.0, layer - head, update - activations - head)
    allocated = weights + buffer * states.gradient + optimizer + activations + head + passing
    allocated += workspace
    return MemoryParts(
        weights=weights,
        gradients=float(buffer * states.gradient),
        optimizer=optimizer,
        activations=activations,
        head=head,
        buffers=passing + workspace,
        outside=_outside(job, allocated),
    )


def update_bytes(job: Job, layers: int, buffer: int) -> float:
    """Tensors that live in the update alone: bf16 gradients in fp32; main weights on their way to FP8.

    Where the only working weights are FP8, Transformer Engine casts all main weights of the shard to bf16
    before it casts the first to FP8 (quantize_master_weights), and the gradients' copies are still there.
    """
    copies = 4.0 * buffer if job.states.copies_gradients else 0.0
    casts = 2.0 * layers if job.fp8_weights else 0.0
    return (copies + casts) / job.states.shards


def worst_stage(job: Job, efficiency: Efficiency = DEFAULT) -> tuple[int, MemoryParts]:
    """The stage that needs most, and what it needs."""
    parts = [stage_memory(job, stage, efficiency) for stage in range(job.layout.pp)]
    stage = max(range(len(parts)), key=lambda index: parts[index].total)
    return stage, parts[stage]


def kept_bytes(job: Job, stage: int) -> float:
    """Activations of all micro-batches in flight, the head's apart."""
    kept = sum(
        count * chunk_bytes(job, number)
        for count, number in zip(in_flight(job, stage), job.chunks[stage], strict=True)
    )
    return kept + (norm_bytes(job) if stage == job.layout.pp - 1 else 0.0)


def layer_bytes_back(job: Job, stage: int) -> float:
    """What recomputation brings back in a layer's backward pass; the final norm has let go by then."""
    gone = norm_bytes(job) if stage == job.layout.pp - 1 else 0.0
    return recomputed_bytes(job, max(job.chunks[stage])) - gone


def head_saved_bytes(job: Job) -> float:
    """What the head on masked rows keeps between its forward and backward pass, all rows masked.

    The gradient of the hidden rows and, in fp32, of this rank's part of the table (model/head.py).
    """
    hidden, columns = job.model.hidden_size, table_rows(job)
    return job.tokens_per_microbatch * hidden * job.activation_bytes + 4 * columns * hidden


def head_bytes(job: Job) -> float:
    """The output layer and its loss at their widest moment, all rows masked.

    On masked rows: beside what it keeps, the rows, gathered and selected; a chunk's logits in the model's
    type and in fp32; the chunk's part of the table's gradient. With one fused loss: all rows' hidden
    states, their logits, and the gradients of both.
    """
    tokens, hidden, columns = job.tokens_per_microbatch, job.model.hidden_size, table_rows(job)
    wide = job.activation_bytes
    if job.head.chunk_rows is None:
        return 2 * tokens * wide * (hidden + columns)
    rows = tokens * hidden * wide * (2 if job.sequence_parallel else 1)
    logits = min(job.head.chunk_rows, tokens) * columns * (4 if wide == 4 else 2 + 4 + 2)
    part = 0 if wide == 4 else columns * hidden * wide
    return head_saved_bytes(job) + rows + logits + part


def _outside(job: Job, allocated: float) -> float:
    layout = job.layout
    sizes = (layout.tp, layout.pp, layout.cp, layout.dp * layout.cp, layout.tp * layout.pp)
    groups = sum(size > 1 for size in sizes)
    return CUDA_CONTEXT_BYTES + groups * COMMUNICATOR_BYTES + FRAGMENTATION * allocated
