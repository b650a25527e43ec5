"""Host memory that a save takes on a node, and whether there is so much.

Read in megatron-core 0.16.1 (docs/checkpoints.md has the formulas; measured on CPU by
tests/parallel/test_host_memory.py):

- What a rank writes is in host memory as a whole until it is written. On a GPU it is copied into pinned
  memory, whose blocks torch rounds up to powers of two, at most to the double, and never gives back. On a
  CPU views are cloned, and a background writer's pages are copied when the next step changes them.
- ``fully_reshardable`` gathers first: every data-parallel rank holds fp32 copy and two moments of its
  whole stage, its own shards once more, and of the bucket that is on its way what was received, the same in
  one piece, and the one before.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..errors import CheckpointError
from ..parallel import Ranks
from .shards import STATE_BYTES, buffers_of, deal_out, empty_shard, shard_elements

GB = 1e9
GATHER_BYTES = 12  # a value of the bucket that is on its way: three fp32 copies


@dataclass(frozen=True)
class SaveMemory:
    """Bytes of host memory that one rank's save takes beside what is there anyway.

    Attributes:
        written: that the rank writes: its part of the weights, and of the optimizer.
        gathered: optimizer of all data-parallel ranks, and what gathering takes beside it.
        peak: at once.
    """

    written: int
    gathered: int
    peak: int


def save_memory(
    chunks: list[Any], optimizer: Any, ranks: Ranks, optimizer_format: str, *, pins: bool
) -> SaveMemory:
    """What a save takes on this rank, before anything is saved.

    Args:
        chunks: wrapped model chunks.
        optimizer: megatron-core's.
        ranks: this process's place.
        optimizer_format: of the save.
        pins: tensors are on a GPU.
    """
    group = ranks.dp_size * ranks.cp_size
    sizes = [p.numel() * p.element_size() for chunk in chunks for p in chunk.parameters()]
    weights = _largest_share(sizes, group)
    buffers = [
        buffer for buffer in buffers_of(chunks) if buffer.ddp_config.use_distributed_optimizer
    ]
    total = STATE_BYTES * sum(buffer.numel for buffer in buffers)
    if not buffers:  # each rank has it all, and writes its part
        elements = sum(p.numel() for chunk in chunks for p in chunk.parameters())
        state = (
            _largest_share(sizes, group) * state_bytes(optimizer) * elements // max(sum(sizes), 1)
        )
        written = weights + state
        return SaveMemory(written, 0, written * (2 if pins else 1))
    if optimizer_format == "dp_reshardable":
        written = weights + STATE_BYTES * shard_elements(chunks, dist.get_rank(ranks.dp_cp_group))
        return SaveMemory(written, 0, written * (2 if pins else 1))
    clones = STATE_BYTES * _largest_share(
        [p.numel() for c in chunks for p in c.parameters()], group
    )
    largest = max(end - first for buffer in buffers for first, end in buffer.bucket_indices)
    on_the_way = (GATHER_BYTES + STATE_BYTES / group) * largest
    peak = total + max(int(on_the_way), clones + weights * (2 if pins else 1))
    return SaveMemory(weights + clones, total + int(on_the_way), peak)


def state_bytes(optimizer: Any) -> int:
    """Of a parameter, in an optimizer that is not distributed."""
    config = getattr(optimizer, "chained_optimizers", [optimizer])[0].config
    moments = 8 if config.optimizer == "adam" else 4
    return moments + (4 if config.bf16 else 0)


def _largest_share(sizes: list[int], parts: int) -> int:
    """The most that one of ``parts`` ranks writes of what they all have."""
    return max(deal_out(sizes, [0] * parts)[1])


def available_bytes() -> int:
    """Host memory that can still be taken: free in the machine, and below the control group's limit."""
    found = [_meminfo("MemAvailable")]
    for limit, usage in _limits():
        found.append(max(0, limit - usage))
    return min(found)


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no {name}")


def _limits() -> list[tuple[int, int]]:
    """Limit and use of the control groups that this process is in, from its own up; version 2 and 1."""
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
        names = names if controllers else ("memory.max", "memory.current", "memory.stat")
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place == root.parent:
                break
            if (limit := _limit_of(place, *names)) is not None:
                found.append(limit)
    return found


def _limit_of(place: Path, maximum: str, current: str, statistics: str) -> tuple[int, int] | None:
    """Limit and use of one group; files in the page cache are no use, since they give way."""
    try:
        limit = (place / maximum).read_text(encoding="ascii").strip()
        usage = int((place / current).read_text(encoding="ascii"))
        lines = (place / statistics).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    if not limit.isdecimal():  # "max"
        return None
    caches = {"inactive_file", "active_file"}
    cached = sum(int(value) for name, value in map(str.split, lines) if name in caches)
    return int(limit), max(0, usage - cached)


def memory_fault(
    needs: list[int], node: str, free: float, optimizer_format: str, *, limit: bool = False
) -> str | None:
    """A sentence where the saves of one node's ranks need more than there is; else None.

    Args:
        needs: bytes of each rank of the node.
        node: its name.
        free: bytes.
        optimizer_format: of the save.
        limit: ``free`` is what ``checkpoint.host_memory_gb`` says.
    """
    if sum(needs) <= free:
        return None
    gathers = optimizer_format == "fully_reshardable"
    how = ", which gathers the optimizer on every rank," if gathers else ""
    there = "checkpoint.host_memory_gb is" if limit else "free there are"
    cure = (
        "set it to dp_reshardable, which writes each rank's shard, or raise "
        "parallel.tensor_model_parallel_size or parallel.pipeline_model_parallel_size"
        if gathers
        else "use more nodes, fewer ranks on a node, or nodes with more memory"
    )
    return (
        f"a save with checkpoint.optimizer_format {optimizer_format}{how} needs {sum(needs) / GB:,.3g} GB of "
        f"host memory on {node} ({len(needs)} ranks, up to {max(needs) / GB:,.3g} GB each); {there} "
        f"{free / GB:,.3g} GB; {cure}"
    )


def check_saves(
    chunks: list[Any],
    optimizer: Any,
    ranks: Ranks,
    optimizer_format: str,
    *,
    pins: bool,
    limit_gb: float | None = None,
) -> None:
    """Refuse a run that could not save; every process calls this before the first step.

    Args:
        chunks: wrapped model chunks.
        optimizer: megatron-core's.
        ranks: this process's place.
        optimizer_format: of the saves.
        pins: tensors are on a GPU.
        limit_gb: what saves may take on a node; None: what is free now.

    Raises:
        CheckpointError: on every process alike: they cannot fit the host memory of a node, or a rank would
            have nothing to write where megatron-core wants something.
    """
    need = save_memory(chunks, optimizer, ranks, optimizer_format, pins=pins).peak
    fault = empty_shard(chunks) if optimizer_format == "dp_reshardable" else None
    free = available_bytes() if limit_gb is None else limit_gb * GB
    gathered: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(gathered, (socket.gethostname(), need, free, fault))
    by_node: dict[str, list[tuple[int, float]]] = {}
    for node, one, there, fault in gathered:
        if fault:
            raise CheckpointError(fault)
        by_node.setdefault(node, []).append((one, there))
    for node, members in by_node.items():
        needs, least = [one for one, _ in members], min(there for _, there in members)
        fault = memory_fault(needs, node, least, optimizer_format, limit=limit_gb is not None)
        if fault:
            raise CheckpointError(fault)
