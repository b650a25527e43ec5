"""Volumes and times of collectives.

Ranks are numbered as megatron-core does: TP changes fastest, then CP, DP, PP. A ring all-gather or
reduce-scatter of S bytes among n moves (n - 1) / n S over each rank's link; an all-reduce twice that
(Patarasuk and Yuan 2009). A group with g members on a node crosses to other nodes by g network adapters.
"""

from __future__ import annotations

from dataclasses import dataclass

from .efficiency import Efficiency
from .hardware import Gpu
from .job import Job


@dataclass(frozen=True)
class Group:
    """Ranks that speak with one another: ``size`` of them, ``stride`` apart."""

    size: int
    stride: int

    def per_node(self, gpu: Gpu) -> int:
        """Members on one node."""
        return max(1, min(self.size, gpu.gpus_per_node // self.stride))

    def is_inside_node(self, gpu: Gpu) -> bool:
        """Whether all members share a node."""
        return self.size * self.stride <= gpu.gpus_per_node

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
    return Group(job.layout.tp, 1)


def context_group(job: Job) -> Group:
    """CP."""
    return Group(job.layout.cp, job.layout.tp)


def data_group(job: Job) -> Group:
    """DP x CP, over which gradients are added."""
    return Group(job.layout.dp * job.layout.cp, job.layout.tp)


def shard_group(job: Job) -> Group:
    """The ranks of one instance of the distributed optimizer."""
    return Group(job.states.shards, job.layout.tp)


def instance_group(job: Job) -> Group:
    """One rank of every instance."""
    return Group(job.states.instances, job.layout.tp * job.states.shards)


def pipeline_group(job: Job) -> Group:
    """PP: neighbours are a whole TP x CP x DP block apart."""
    layout = job.layout
    return Group(layout.pp, layout.tp * layout.cp * layout.dp)
