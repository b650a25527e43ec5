"""The paragraph of kind ``order``: what the order was in each rendering, and whether it differs."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Row
from .text import difference, estimate, figure, has, listed

_LABELS = {
    "share_left_to_right": "left-to-right",
    "share_sketch_first": "sketch-first",
    "share_interleaved": "interleaved",
}


def paragraph(rows: Sequence[Row], renderings: Sequence[str]) -> str:
    """A few sentences for each algorithm and temperature.

    Args:
        rows: of ``summary``.
        renderings: labels, the one first that the others are compared with.
    """
    settings = dict.fromkeys((row["alg"], row["temperature"]) for row in rows)
    told = []
    for alg, temperature in settings:
        mine = [row for row in rows if (row["alg"], row["temperature"]) == (alg, temperature)]
        told.append(_of_setting(mine, f"With {alg} at temperature {temperature}", renderings))
    return " ".join(part for part in told if part)


def _of_setting(rows: Sequence[Row], begin: str, renderings: Sequence[str]) -> str:
    mine = {str(row["rendering"]): row for row in rows if row["order"] == "model"}
    there = [name for name in renderings if name in mine and has(mine[name], "kendall")]
    if not there:
        return ""
    orders = [f"{name} {estimate(mine[name], 'kendall')}" for name in there]
    text = f"{begin}, Kendall's tau of position and step is {listed(orders)}{_nulls(rows)}."
    first = renderings[0]
    column = f"kendall_minus_{first}"
    compared = [f"{n} {difference(mine[n], column)}" for n in there if has(mine[n], column)]
    if compared:
        text += f" Against {first} on the same problems: {listed(compared)}."
    if labels := [f"{name} {told}" for name in there if (told := _label(mine[name]))]:
        text += f" The most frequent label: {listed(labels)}."
    right = [
        f"{name} {estimate(mine[name], 'correct', percent=True)}"
        for name in there
        if has(mine[name], "correct")
    ]
    return f"{text} Right answers: {listed(right)}." if right else text


def _nulls(rows: Sequence[Row]) -> str:
    """What random order would give, over all renderings."""
    found = [
        figure(row, "kendall") for row in rows if row["order"] == "origin" and has(row, "kendall")
    ]
    if not found:
        return ""
    return f" (random order {min(found):.2f} to {max(found):.2f}, left to right 1)"


def _label(row: Row) -> str:
    known = {label: figure(row, name) for name, label in _LABELS.items() if has(row, name)}
    if not known:
        return ""
    best = max(known, key=lambda label: known[label])
    return f"{best} ({100 * known[best]:.0f}%)"
