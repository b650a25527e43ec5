"""Parameters of one model chunk on one rank, and the buffers that data parallelism lays them in.

Padding is megatron-core's (``_ParamAndGradBuffer``), since gradients, optimizer and the volumes of
collectives are of the padded buffers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from .job import Job


@dataclass(frozen=True)
class Parameters:
    """Of one chunk on one rank."""

    layers: int  # in transformer layers
    table: int  # embedding, output layer, final norm
    buffer: int  # elements of its buffer, padding included
    largest_bucket: int  # of them in the largest bucket
    num_buckets: int

    @property
    def total(self) -> int:
        """Without padding."""
        return self.layers + self.table


def head_dim(job: Job) -> int:
    """Size of an attention head."""
    return job.model.hidden_size // job.model.num_attention_heads


def kv_size(job: Job) -> int:
    """Width of the keys, and of the values, of all heads."""
    return head_dim(job) * job.model.num_query_groups


def table_rows(job: Job) -> int:
    """Rows of the embedding or output table on one rank."""
    return -(-job.model.vocab_size // job.layout.tp)


def layer_sizes(job: Job) -> list[int]:
    """Elements of each parameter of one layer on one rank: norms are whole, matrices cut by TP."""
    model, tp = job.model, job.layout.tp
    hidden, ffn = model.hidden_size, model.ffn_hidden_size // tp
    projected = (hidden + 2 * kv_size(job)) // tp
    bias = [projected] if model.add_qkv_bias else []
    attention = [hidden, hidden * hidden // tp, projected * hidden, *bias]
    return [*attention, hidden, 2 * ffn * hidden, ffn * hidden]


def chunk_parameters(job: Job, stage: int, chunk: int) -> Parameters:
    """Of chunk ``chunk`` of pipeline stage ``stage``."""
    front, layers, back = _chunk_sizes(job, stage, chunk)
    buckets = _buckets(
        tuple(front + layers + back),
        bucket_size=_bucket_size(job) if stage == 0 and chunk == 0 else None,
        shards=job.states.shards if job.states.is_sharded else 0,
    )
    return Parameters(
        layers=sum(size for size, _ in layers),
        table=sum(size for size, _ in front + back),
        buffer=sum(buckets),
        largest_bucket=max(buckets, default=0),
        num_buckets=len(buckets),
    )


def _chunk_sizes(
    job: Job, stage: int, chunk: int
) -> tuple[list[tuple[int, bool]], list[tuple[int, bool]], list[tuple[int, bool]]]:
    """(elements, whether another stage has it too) of what is before the layers, of them, and behind."""
    model, layout = job.model, job.layout
    is_first = stage == 0 and chunk == 0
    is_last = stage == layout.pp - 1 and chunk == layout.vp - 1
    table = table_rows(job) * model.hidden_size
    is_shared = model.tie_word_embeddings and not (is_first and is_last)
    front = [(table, is_shared)] if is_first else []
    back = [(model.hidden_size, False)] if is_last else []
    if is_last and (is_shared or not model.tie_word_embeddings):
        back.append((table, is_shared))
    return front, [(size, False) for size in layer_sizes(job)] * job.chunks[stage][chunk], back


def parameter_sizes(job: Job, stage: int) -> list[int]:
    """Elements of every parameter of a stage, on one rank."""
    return [
        size
        for chunk in range(job.layout.vp)
        for part in _chunk_sizes(job, stage, chunk)
        for size, _ in part
    ]


def stage_parameters(job: Job, stage: int) -> Parameters:
    """Of all chunks of a stage."""
    parts = [chunk_parameters(job, stage, chunk) for chunk in range(job.layout.vp)]
    return Parameters(
        layers=sum(part.layers for part in parts),
        table=sum(part.table for part in parts),
        buffer=sum(part.buffer for part in parts),
        largest_bucket=max(part.largest_bucket for part in parts),
        num_buckets=sum(part.num_buckets for part in parts),
    )


def _bucket_size(job: Job) -> int | None:
    """megatron-core makes buckets on the first stage only, and only where they overlap with anything."""
    if not job.overlap_grad_reduce:
        return None
    return job.bucket_size or max(40_000_000, 1_000_000 * job.layout.dp)


def _padded(number: int, divisor: int) -> int:
    return -(-number // divisor) * divisor


@lru_cache(maxsize=4096)
def _buckets(
    sizes: tuple[tuple[int, bool], ...], bucket_size: int | None, shards: int
) -> tuple[int, ...]:
    """Elements of each bucket, filled from the last parameter to the first; 0 shards: no padding."""
    divisor = math.lcm(shards, 128) if shards else 1
    buckets: list[int] = []
    filled = 0
    for size, is_shared in reversed(sizes):
        needs_own = is_shared and shards > 0
        if needs_own and filled:
            buckets.append(_padded(filled, divisor))
            filled = 0
        filled = (_padded(filled, 64) if shards else filled) + size
        if needs_own or (bucket_size is not None and filled >= bucket_size):
            buckets.append(_padded(filled, divisor))
            filled = 0
    if filled:
        buckets.append(_padded(filled, divisor))
    return tuple(buckets)
