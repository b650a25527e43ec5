"""The shards of megatron-core's distributed optimizer, told from its buffers: which rank holds what.

A buffer is cut into buckets, each bucket into as many equal shards as the data-parallel group (with
context parallelism) has ranks. The format ``dp_reshardable`` writes a rank's shards as they are: a tensor
for each parameter's part, one for each gap between them, each three times (fp32 copy and two moments).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

STATE_TENSORS = 3  # of Adam: param, exp_avg, exp_avg_sq
STATE_BYTES = 4 * STATE_TENSORS  # a parameter


class Part(NamedTuple):
    """Elements [start, end) of a shard."""

    start: int
    end: int
    is_gap: bool  # between parameters; written all the same


def shard_parts(buffer: Any, bucket: int, index: int) -> list[Part]:
    """What ``dp_reshardable`` writes of one rank's shard of a bucket, in order.

    Args:
        buffer: megatron-core's ``_ParamAndGradBuffer``.
        bucket: its number.
        index: of the rank in the data-parallel group.
    """
    first, end = buffer.bucket_indices[bucket]
    size = (end - first) // buffer.data_parallel_world_size
    low = index * size
    parts: list[Part] = []
    position = 0
    for start, stop in _parameter_ranges(buffer, bucket):
        start, stop = max(start - first - low, 0), min(stop - first - low, size)
        if start >= stop:
            continue
        if start > position:
            parts.append(Part(position, start, True))
        parts.append(Part(start, stop, False))
        position = stop
    last = min(size, buffer.buckets[bucket].numel_unpadded - low)
    if parts and position < last:
        parts.append(Part(position, last, True))
    return parts


def _parameter_ranges(buffer: Any, bucket: int) -> list[tuple[int, int]]:
    ranges = buffer.param_index_map.values()
    return sorted((start, stop) for start, stop, number in ranges if number == bucket)


def buffers_of(chunks: list[Any]) -> list[Any]:
    """Buffers of wrapped model chunks."""
    return [buffer for chunk in chunks for buffer in chunk.buffers]


def shard_elements(chunks: list[Any], index: int) -> int:
    """Elements of the optimizer's shards that ``dp_reshardable`` writes for one rank of the group."""
    return sum(
        part.end - part.start
        for buffer in buffers_of(chunks)
        for bucket in range(len(buffer.buckets))
        for part in shard_parts(buffer, bucket, index)
    )


def empty_shard(chunks: list[Any]) -> str | None:
    """A sentence where a rank's whole shard is padding, which megatron-core cannot save; else None.

    The padding rounds a bucket up to a multiple of lcm(group, 128), so that an odd group of hundreds of
    ranks can leave its last ones nothing.
    """
    for buffer in buffers_of(chunks):
        size = buffer.data_parallel_world_size
        for bucket in range(len(buffer.buckets)):
            for index in reversed(range(size)):
                if not any(not part.is_gap for part in shard_parts(buffer, bucket, index)):
                    first, end = buffer.bucket_indices[bucket]
                    return (
                        f"rank {index} of {size} data-parallel ranks gets nothing but padding of an "
                        f"optimizer bucket of {buffer.buckets[bucket].numel_unpadded:,} values (padded to "
                        f"{end - first:,}), which megatron-core cannot save as dp_reshardable; use "
                        f"another number of ranks (a power of two pads least) or "
                        f"checkpoint.optimizer_format: fully_reshardable"
                    )
                break  # shards fill from the front: the last one tells
    return None


def deal_out(sizes: Sequence[int], loads: Sequence[int]) -> tuple[list[int], list[int]]:
    """Who writes what all ranks of a group have: the largest first, each to who has least so far.

    megatron-core's rule (``distribute_shards_to_ranks``), which it follows after what only one rank has.

    Args:
        sizes: bytes of each tensor.
        loads: what each rank writes anyway.

    Returns:
        The rank of each tensor, and what each rank writes in all.
    """
    heap = [(load, rank) for rank, load in enumerate(loads)]
    heapq.heapify(heap)
    writers = [0] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        load, rank = heapq.heappop(heap)
        writers[number] = rank
        heapq.heappush(heap, (load + sizes[number], rank))
    return writers, [load for load, _ in sorted(heap, key=lambda pair: pair[1])]
