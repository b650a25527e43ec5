"""Rows as CSV and as a Markdown table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ...files import atomic_write
from .base import Row


def column_names(rows: Sequence[Row]) -> list[str]:
    """All columns in the order in which they first come; those that begin with _ are the kind's own."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if not name.startswith("_")]


def shown(rows: Sequence[Row]) -> list[Row]:
    """The rows without the kind's own columns."""
    return [{n: value for n, value in row.items() if not n.startswith("_")} for row in rows]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line a row; what is not known is empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, column_names(rows), extrasaction="ignore", restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(stream.getvalue())


def markdown_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A table of some columns, estimates with their interval in the cell."""
    there = [name for name in columns if any(row.get(name) is not None for row in rows)]
    lines = [_line(there), _line(["---"] * len(there))]
    lines += [_line([cell_text(row, name) for name in there]) for row in rows]
    return "\n".join(lines) + "\n"


def cell_text(row: Row, name: str) -> str:
    """A value with its interval, to three or four digits."""
    text = _number(row.get(name))
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or high is None:
        return text
    return f"{text} ({_number(low)} to {_number(high)})"


def _number(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value.replace("|", "\\|")
    if isinstance(value, bool) or isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
