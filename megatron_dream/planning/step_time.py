"""Seconds of a step: the pipeline over all micro-batches, exposed data parallelism, the update."""

from __future__ import annotations

from dataclasses import dataclass

from .communication import (
    Group,
    data_group,
    instance_group,
    pipeline_group,
    shard_group,
    table_group,
)
from .efficiency import Efficiency
from .hardware import Gpu
from .job import Job
from .layer_time import (
    Seconds,
    backward_seconds,
    forward_seconds,
    gradient_sum_seconds,
    head_seconds,
)
from .parameters import Parameters, stage_parameters, table_rows
from .schedule import pipeline_seconds

_HOST_ADAM_GB_S = 25.0  # a rank's share of host memory bandwidth in the offloaded update


@dataclass(frozen=True)
class StepParts:
    """Seconds of a step; the parts add up to ``total``. The slowest stage's work, then what is waited for."""

    products: float
    attention: float
    elementwise: float
    head: float
    tensor_parallel: float
    context_parallel: float
    pipeline: float  # fill, drain, and sends that are waited for
    data_parallel: float
    update: float

    @property
    def total(self) -> float:
        """Of the step."""
        return sum(getattr(self, name) for name in self.__dataclass_fields__)


def stage_seconds(
    job: Job, stage: int, gpu: Gpu, efficiency: Efficiency
) -> tuple[Seconds, Seconds]:
    """(forward, backward) of one micro-batch through all chunks of a stage."""
    layers = sum(job.chunks[stage])
    forward = Seconds().plus(forward_seconds(job, gpu, efficiency), layers)
    backward = Seconds().plus(backward_seconds(job, gpu, efficiency), layers)
    sums = layers * gradient_sum_seconds(job, gpu, efficiency)
    backward = backward.plus(Seconds(elementwise=sums))
    if stage == job.layout.pp - 1:
        # Made in the forward pass, gradients and all; where all rows share one loss, a third of it.
        head, now = head_seconds(job, gpu, efficiency), 1.0 if job.head.chunk_rows else 1 / 3
        forward = forward.plus(Seconds(head=head * now))
        backward = backward.plus(Seconds(head=head * (1 - now)))
    return forward, backward


def step_seconds(job: Job, gpu: Gpu, efficiency: Efficiency) -> StepParts:
    """Of one step."""
    layout = job.layout
    works = [stage_seconds(job, stage, gpu, efficiency) for stage in range(layout.pp)]
    totals = [forward.total + backward.total for forward, backward in works]
    slowest = max(range(layout.pp), key=lambda stage: totals[stage])
    work = works[slowest][0].plus(works[slowest][1])
    count = layout.num_microbatches
    filling = pipeline_seconds(totals, count, layout.vp) - count * totals[slowest]
    first = works[0]
    return StepParts(
        products=count * work.products,
        attention=count * work.attention,
        elementwise=count * work.elementwise,
        head=count * work.head,
        tensor_parallel=count * work.tensor_parallel,
        context_parallel=count * work.context_parallel,
        pipeline=filling + _sends(job, gpu, efficiency),
        data_parallel=_data_parallel(job, gpu, efficiency, first[0].total, first[1].total),
        update=update_seconds(job, gpu, efficiency),
    )


def _sends(job: Job, gpu: Gpu, efficiency: Efficiency) -> float:
    """Hidden states between stages that are waited for.

    Interleaved stages send while they compute, so that only filling and draining wait; without, each
    micro-batch waits for one send forward and one backward.
    """
    layout = job.layout
    if layout.pp == 1:
        return 0.0
    group = pipeline_group(job)
    width = job.activation_bytes * job.model.hidden_size / job.sequence_shards
    size = width * job.tokens_per_microbatch
    link = gpu.nvlink_gb_s * 1e9 * efficiency.nvlink
    if not group.is_inside_node(gpu):
        link = gpu.network_gb_s * 1e9 * efficiency.network
    one = size / link + group.latency(gpu, efficiency)
    waited = layout.pp - 1 + (0 if layout.vp > 1 else layout.num_microbatches)
    return 2 * waited * one


def _data_parallel(
    job: Job, gpu: Gpu, efficiency: Efficiency, forward: float, backward: float
) -> float:
    """Gradients' reduction and weights' gathering that no computation hides, of the first stage.

    Reduction runs beside the last micro-batch's backward pass, bucket by bucket: the last bucket's is
    left, or what is longer than that pass. Gathering runs beside the next forward pass.
    """
    parameters = stage_parameters(job, 0)
    reduce, gather = collective_seconds(job, parameters, gpu, efficiency)
    last = parameters.largest_bucket / max(parameters.buffer, 1)
    shown = max(reduce - backward, reduce * last) if job.overlap_grad_reduce else reduce
    shown += max(gather - forward, gather * last) if job.overlap_param_gather else gather
    return shown + _shared_table(job, gpu, efficiency)


def _shared_table(job: Job, gpu: Gpu, efficiency: Efficiency) -> float:
    """Tied embeddings in a pipeline: first and last stage add their tables' gradients, nothing beside it."""
    if not job.model.tie_word_embeddings or job.layout.pp == 1:
        return 0.0
    size = table_rows(job) * job.model.hidden_size * job.states.gradient
    return table_group(job).reduce_seconds(size, gpu, efficiency)


def collective_seconds(
    job: Job, parameters: Parameters, gpu: Gpu, efficiency: Efficiency
) -> tuple[float, float]:
    """(reduction of gradients, gathering of weights) of a stage, whether hidden or not."""
    states = job.states
    size = parameters.buffer * states.gradient
    if not states.is_sharded:
        return data_group(job).reduce_seconds(size, gpu, efficiency), 0.0
    inside: Group = shard_group(job)
    reduce = inside.gather_seconds(size, gpu, efficiency)
    reduce += instance_group(job).reduce_seconds(size / states.shards, gpu, efficiency)
    width = 1.0 if job.fp8_weights else min(job.weight_bytes, job.activation_bytes)
    return reduce, inside.gather_seconds(parameters.buffer * width, gpu, efficiency)


def update_seconds(job: Job, gpu: Gpu, efficiency: Efficiency) -> float:
    """Of the slowest stage's update.

    On this rank's shard: the norm reads the gradient, clipping reads and writes it, Adam reads gradient,
    main weight and moments and writes the last three and the weight; the whole gradient buffer is
    zeroed. Offloaded: gradients to the host, its memory, weights back.
    """
    slowest = 0.0
    states, bandwidth = job.states, gpu.memory_gb_s * 1e9 * efficiency.memory
    for stage in range(job.layout.pp):
        parameters = stage_parameters(job, stage)
        shard = parameters.buffer / states.shards
        main = states.main or job.activation_bytes
        moved = 4.0 * states.gradient + 2 * (main + states.moments) + job.activation_bytes
        if states.copies_gradients:
            moved += 3 * 4
        on_gpu = shard * (1 - states.offloaded) * moved + parameters.buffer * states.gradient
        seconds = on_gpu / bandwidth
        if states.offloaded:
            away = shard * states.offloaded
            seconds += away * (4 + job.activation_bytes) / (gpu.host_gb_s * 1e9)
            seconds += away * (4 + 2 * (4 + states.moments)) / (_HOST_ADAM_GB_S * 1e9)
        slowest = max(slowest, seconds)
    return slowest
