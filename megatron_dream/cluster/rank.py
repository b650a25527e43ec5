"""What one rank measures, with whom, and in which order; what fails is told as a sentence."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from .. import device
from ..launcher import Launch
from . import measure
from .exchange import Exchange
from .verdict import pairings

PARTS = 6  # of the whole time: the longest that one collective may take

Measured = dict[str, Any]  # product and inside (seconds), digest, pairs (seconds by name), errors


def measure_rank(
    launch: Launch, nodes: list[str], seconds: float, exchange: Exchange | None = None
) -> Measured:
    """This rank's measurements.

    Args:
        launch: its place.
        nodes: name of each rank's node.
        seconds: of the whole check.
        exchange: with the other ranks; None: there are none.
    """
    found: Measured = {"errors": [], "pairs": {}, "product": None}

    def multiply() -> float:
        value, found["digest"] = measure.product()
        return value

    found["product"] = _attempt(found, "matrix product", multiply)
    if exchange is None:
        return found
    part = seconds / PARTS
    _join(launch, exchange, part)
    here = nodes[launch.rank]
    if nodes.count(here) > 1:
        what = "all-reduce inside the node"
        found["inside"] = _attempt(found, what, lambda: _sum_over(nodes, {here}, part))
    for pairs in pairings(list(dict.fromkeys(nodes))):
        for first, second in (pair for pair in pairs if here in pair):
            both = {first, second}
            what = f"all-reduce {first} with {second}"
            value = _attempt(found, what, lambda both=both: _sum_over(nodes, both, part))  # type: ignore[misc]
            found["pairs"][f"{first} {second}"] = value
    return found


def _join(launch: Launch, exchange: Exchange, part: float) -> None:
    """All ranks, over the store that they have already; connections are made by the sums."""
    dist.init_process_group(
        device.distributed_backend(),
        store=dist.PrefixStore("check", exchange.store),
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=datetime.timedelta(seconds=2 * part),
    )


def _sum_over(nodes: list[str], names: set[str], part: float) -> float:
    ranks = [rank for rank, node in enumerate(nodes) if node in names]
    return measure.summing(measure.group_of(ranks, part), part)


def _attempt(found: Measured, what: str, run: Callable[[], float]) -> float | None:
    try:
        return run()
    except (RuntimeError, TimeoutError, dist.DistError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        found["errors"].append(f"{what}: {reason[:200]}")
        return None
