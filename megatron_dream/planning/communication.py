"""Volumes and times of collectives.

Ranks are numbered as megatron-core does: TP changes fastest, then CP, DP, PP. A ring all-gather or
reduce-scatter of S bytes among n moves (n - 1) / n S over each rank's link; an all-reduce twice that
(Patarasuk and Yuan 2009). A group with g members on a node crosses to other nodes by g network adapters.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from .efficiency import Efficiency
from .hardware import Gpu
from .job import Job


@dataclass(frozen=True)
class Group:
    """Ranks that speak with one another: ``size`` of them, ``stride`` apart, among all ``world`` ranks."""

    size: int
    stride: int
    world: int

    def per_node(self, gpu: Gpu) -> int:
        """Members on a node, in the group and on the node where they are fewest."""
        return _fewest_on_a_node(self.size, self.stride, self.world, gpu.gpus_per_node)

    def is_inside_node(self, gpu: Gpu) -> bool:
        """Whether each such group has all its members on one node."""
        return self.per_node(gpu) == self.size

    def bandwidth(self, gpu: Gpu, efficiency: Efficiency) -> float:
        """Bytes/s of a ring over the group, one direction."""
        nvlink = gpu.nvlink_gb_s * 1e9 * efficiency.nvlink
        if self.is_inside_node(gpu):
            return nvlink
        network = gpu.network_gb_s * 1e9 * efficiency.network
        return min(nvlink, self.per_node(gpu) * network)

    def latency(self, gpu: Gpu, efficiency: Efficiency) -> float:
        """Seconds of a collective without content."""
        inside = self.is_inside_node(gpu)
        return efficiency.nvlink_latency if inside else efficiency.network_latency

    def gather_seconds(self, size: float, gpu: Gpu, efficiency: Efficiency) -> float:
        """All-gather, or reduce-scatter, of ``size`` bytes in all."""
        if self.size == 1:
            return 0.0
        moved = size * (self.size - 1) / self.size
        return moved / self.bandwidth(gpu, efficiency) + self.latency(gpu, efficiency)

    def reduce_seconds(self, size: float, gpu: Gpu, efficiency: Efficiency) -> float:
        """All-reduce of ``size`` bytes."""
        return 2 * self.gather_seconds(size, gpu, efficiency)


def tensor_group(job: Job) -> Group:
    """TP."""
    return Group(job.layout.tp, 1, job.layout.world_size)


def context_group(job: Job) -> Group:
    """CP."""
    return Group(job.layout.cp, job.layout.tp, job.layout.world_size)


def data_group(job: Job) -> Group:
    """DP x CP, over which gradients are added."""
    return Group(job.layout.dp * job.layout.cp, job.layout.tp, job.layout.world_size)


def shard_group(job: Job) -> Group:
    """The ranks of one instance of the distributed optimizer."""
    return Group(job.states.shards, job.layout.tp, job.layout.world_size)


def instance_group(job: Job) -> Group:
    """One rank of every instance."""
    stride = job.layout.tp * job.states.shards
    return Group(job.states.instances, stride, job.layout.world_size)


def pipeline_group(job: Job) -> Group:
    """PP: neighbours are a whole TP x CP x DP block apart."""
    layout = job.layout
    return Group(layout.pp, layout.world_size // layout.pp, layout.world_size)


def table_group(job: Job) -> Group:
    """First and last stage, which hold the same table where embeddings are tied."""
    layout = job.layout
    stride = (layout.pp - 1) * layout.world_size // layout.pp
    return Group(min(layout.pp, 2), max(stride, 1), layout.world_size)


@lru_cache(maxsize=4096)
def _fewest_on_a_node(size: int, stride: int, world: int, per_node: int) -> int:
    """Ranks fill nodes in order: node of rank r is r // per_node.

    Groups whose first ranks have the same place on their nodes are alike.
    """
    if size == 1 or world <= per_node:
        return size
    if stride % per_node == 0:
        return 1
    span = size * stride
    places = {
        (block * span + offset) % per_node
        for block in range(min(max(world // span, 1), per_node))
        for offset in range(min(stride, per_node))
    }
    return min(
        min(Counter((place + index * stride) // per_node for index in range(size)).values())
        for place in places
    )
