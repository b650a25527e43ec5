"""The check as lines for a person: what all nodes have, the three measurements, what is wrong."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from . import measure
from .facts import Facts
from .verdict import Finding


def show(
    facts: Mapping[str, Facts],
    measured: Mapping[int, Mapping[str, Any]],
    hellos: Mapping[int, Any],
    findings: Sequence[Finding],
) -> None:
    """Print the report, on rank 0."""
    print(f"check of {len(facts)} nodes, {len(hellos)} ranks")
    for name in next(iter(facts.values()), {}):
        values = Counter(one.get(name, "unknown") for one in facts.values())
        common, count = values.most_common(1)[0]
        print(f"  {name:14} {common}" + ("" if count == len(facts) else f" ({count} nodes)"))
    flops, size = measure.product_flops(), measure.sum_bytes()
    products = [one["product"] for one in measured.values() if one["product"]]
    _line("matrix product", products, lambda seconds: f"{flops / seconds / 1e12:.3g} TFLOP/s")

    def rate(seconds: float) -> str:
        return f"{size / seconds / 1e9:.3g} GB/s of {size / 2**20:.0f} MiB"

    inside = [one["inside"] for one in measured.values() if one.get("inside")]
    _line("sum inside", inside, rate)
    pairs = [value for one in measured.values() for value in one["pairs"].values() if value]
    _line("sum of a pair", pairs, rate)
    for finding in findings:
        print(f"  {'FAULT' if finding.is_fault else 'note '} {finding}")
    at_fault = sorted({finding.node for finding in findings if finding.is_fault})
    print(f"  at fault: {', '.join(at_fault)}" if at_fault else "  no node is at fault", flush=True)


def _line(name: str, seconds: Sequence[float], rate: Any) -> None:
    if seconds:
        usual, slowest = statistics.median_low(seconds), max(seconds)
        print(f"  {name:14} median {rate(usual)}, slowest {slowest / usual:.2f} times the median")
