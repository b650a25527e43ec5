"""``megatron-dream check-nodes``: before a job, which of its nodes is slow, broken or unlike the others.

Three measurements: a matrix product on each rank, an all-reduce inside each node, an all-reduce over
pairs of nodes. Ranks tell rank 0 through a store of its own, so that a node whose network or GPU fails is
named, and one that does not even start.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .. import device
from ..files import atomic_write, write_json
from ..launcher import Launch, expand_hosts, launched, tasks_per_node
from .exchange import Exchange
from .facts import collect_facts, node_name
from .rank import Measured, measure_rank
from .report import show
from .verdict import (
    Finding,
    Pair,
    compare_facts,
    judge_pairs,
    odd_results,
    slow_nodes,
    slow_ranks,
)


def check_nodes(
    seconds: float = 300.0,
    slow: float = 1.3,
    output: Path | None = None,
    bad_nodes: Path | None = None,
) -> int:
    """Check the nodes of the processes that were started together.

    Args:
        seconds: after which what has not answered is broken.
        slow: times the median from which on something is slow.
        output: JSON with all facts, measurements and findings.
        bad_nodes: file of names of nodes to leave out, one a line; only written where there are any.

    Returns:
        On rank 0 the exit code: 1 if a node is at fault. On the others 0.
    """
    launch = launched()
    device.bind_local_device(launch.local_rank)
    hello = {"node": node_name(), "facts": collect_facts() if launch.local_rank == 0 else None}
    if launch.world_size == 1:
        alone = {0: measure_rank(launch, [str(hello["node"])], seconds)}
        return _conclude({0: hello}, alone, slow, output, bad_nodes)
    exchange = Exchange(launch, seconds)
    exchange.tell("hello", hello)
    if launch.rank != 0:
        return _take_part(exchange, launch, seconds)
    hellos = exchange.heard("hello")
    silent = frozenset(range(launch.world_size)) - set(hellos)
    nodes = [hellos[rank]["node"] if rank in hellos else "" for rank in range(launch.world_size)]
    exchange.announce("nodes", "" if silent else "\n".join(nodes))
    measured: dict[int, Measured] = {}
    if not silent:
        exchange.tell("measured", measure_rank(launch, nodes, seconds, exchange))
        measured = exchange.heard("measured")
    code = _conclude(hellos, measured, slow, output, bad_nodes, silent)
    exchange.announce("end", str(code))
    return _leave(exchange, code)


def _take_part(exchange: Exchange, launch: Launch, seconds: float) -> int:
    nodes = exchange.announced("nodes")
    if nodes:
        exchange.tell("measured", measure_rank(launch, nodes.split("\n"), seconds, exchange))
    exchange.announced("end")
    return _leave(exchange, 0)


def _leave(exchange: Exchange, code: int) -> int:
    """End for good: a collective that hangs would keep the process from ending by itself."""
    exchange.tell("left", True)
    if exchange.launch.rank == 0:
        exchange.heard("left")  # its store must outlive the others
    sys.stdout.flush()
    sys.stderr.flush()
    if device.device_type() == "cuda":
        os._exit(code)
    return code


def _conclude(
    hellos: dict[int, Any],
    measured: dict[int, Measured],
    slow: float,
    output: Path | None,
    bad_nodes: Path | None,
    silent: frozenset[int] = frozenset(),
) -> int:
    """Judge, show, write; the exit code."""
    facts = {told["node"]: told["facts"] for told in hellos.values() if told["facts"]}
    findings = _silent(silent) + compare_facts(facts)
    findings += judge(hellos, measured, slow)
    show(facts, measured, hellos, findings)
    at_fault = sorted({finding.node for finding in findings if finding.is_fault})
    if output is not None:
        report = {"facts": facts, "measured": measured, "findings": [str(f) for f in findings]}
        write_json(output, report)
    if bad_nodes is not None and at_fault:
        with atomic_write(bad_nodes) as stream:
            stream.writelines(f"{node}\n" for node in at_fault)
    return 1 if at_fault else 0


def _silent(ranks: frozenset[int]) -> list[Finding]:
    """Nodes that ranks which never answered are on: srun lays ranks out in blocks."""
    if not ranks:
        return []
    nodes = expand_hosts(os.environ.get("SLURM_STEP_NODELIST", "unknown"))
    counts = tasks_per_node(os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    of_rank = [node for node, count in zip(nodes, counts, strict=False) for _ in range(count)]
    named = [of_rank[rank] if rank < len(of_rank) else nodes[-1] for rank in sorted(ranks)]
    return [
        Finding(node, f"{named.count(node)} ranks never answered") for node in dict.fromkeys(named)
    ]


def judge(hellos: dict[int, Any], measured: dict[int, Measured], slow: float) -> list[Finding]:
    """All findings of the measurements, by the rank that made them."""
    if not measured:
        return []
    nodes = [hellos[rank]["node"] for rank in sorted(hellos)]
    findings = [
        Finding(nodes[rank], f"rank {rank} measured nothing in time")
        for rank in sorted(set(hellos) - set(measured))
    ]
    findings += [
        Finding(nodes[rank], f"rank {rank}: {error}")
        for rank, one in sorted(measured.items())
        for error in one["errors"]
        if not error.startswith("all-reduce") or "inside" in error
    ]
    products = {rank: one["product"] for rank, one in measured.items() if one["product"]}
    digests = {rank: one["digest"] for rank, one in measured.items() if "digest" in one}
    findings += odd_results(digests, nodes) + slow_ranks(products, nodes, slow, "multiplies:")
    inside = {nodes[r]: one["inside"] for r, one in measured.items() if one.get("inside")}
    findings += slow_nodes(inside, slow, "an all-reduce inside it")
    return findings + judge_pairs(_pairs(measured), slow)


def _pairs(measured: dict[int, Measured]) -> dict[Pair, float | None]:
    """Time of each pair, of the slowest of its ranks; None where it failed on one."""
    pairs: dict[Pair, float | None] = {}
    for one in measured.values():
        for name, value in one["pairs"].items():
            first, second = name.split(" ")
            known = pairs.get((first, second), 0.0)
            pairs[first, second] = None if value is None or known is None else max(known, value)
    return pairs
