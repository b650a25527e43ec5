"""Who talks to whom: the process groups of the whole job, and which of them leave a node.

Ranks fill nodes in order, as srun's block distribution and torchrun do.
"""

from __future__ import annotations

import dataclasses

from .. import device
from ..config.layout import Layout

_ORDER = "tp-cp-ep-dp-pp"  # megatron-core's default
# Name, megatron-core's token, what travels.
_KINDS = (
    ("TP", "tp", "activations of every layer"),
    ("CP", "cp", "keys and values of every layer"),
    ("PP", "pp", "activations between stages"),
    ("DP", "dp-cp", "gradients and parameters"),
)


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups of one kind.

    Attributes:
        kind: ``TP``, ``CP``, ``PP`` or ``DP`` (with context parallelism).
        carries: what travels in them.
        members: ranks of each group.
        nodes: how many nodes each group is spread over.
    """

    kind: str
    carries: str
    members: list[list[int]]
    nodes: list[int]

    @property
    def size(self) -> int:
        """Ranks of a group."""
        return len(self.members[0])

    def __str__(self) -> str:
        least, most = min(self.nodes), max(self.nodes)
        spread = "inside a node" if most == 1 else f"over {least} to {most} nodes"
        if least == most > 1:
            spread = f"over {most} nodes"
        many = "group" if len(self.members) == 1 else "groups"
        return (
            f"{self.kind} {len(self.members):,} {many} of {self.size:,}, {spread} ({self.carries})"
        )


def communicators(layout: Layout, gpus_per_node: int) -> list[Groups]:
    """Groups of more than one rank, by kind, as megatron-core forms them."""
    device.import_megatron()
    from megatron.core.parallel_state import RankGenerator

    generator = RankGenerator(
        tp=layout.tp, ep=1, dp=layout.dp, pp=layout.pp, cp=layout.cp, order=_ORDER
    )
    found = []
    for kind, token, carries in _KINDS:
        members = generator.get_ranks(token)
        if len(members[0]) > 1:
            nodes = [len({rank // gpus_per_node for rank in group}) for group in members]
            found.append(Groups(kind, carries, members, nodes))
    return found


def node_warnings(layout: Layout, groups: list[Groups], gpus_per_node: int) -> list[str]:
    """What is possible and slow."""
    found = []
    if layout.world_size > gpus_per_node and layout.world_size % gpus_per_node:
        found.append(
            f"{layout.world_size} GPUs are no whole number of nodes of {gpus_per_node}: "
            f"{gpus_per_node - layout.world_size % gpus_per_node} are left idle"
        )
    for one in groups:
        if one.kind not in ("TP", "CP") or max(one.nodes) == 1:
            continue
        number = next(n for n, nodes in enumerate(one.nodes) if nodes > 1)
        ranks = one.members[number]
        crossing = sum(nodes > 1 for nodes in one.nodes)
        field = "tensor_model_parallel_size" if one.kind == "TP" else "context_parallel_size"
        if one.kind == "TP" or one.size * layout.tp <= gpus_per_node:
            found.append(
                f"{crossing} of {len(one.members)} {one.kind} groups leave their node (ranks {ranks[0]} "
                f"to {ranks[-1]} are on {one.nodes[number]} nodes of {gpus_per_node}), and {one.carries} "
                f"go over the network; make parallel.{field} divide {gpus_per_node}, or say --gpus-per-node"
            )
    return found
