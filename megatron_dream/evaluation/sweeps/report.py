"""The files that tell what a sweep has found; made from the measured cells alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...files import atomic_write, write_json
from .base import Json, Row
from .plot import plot_rows
from .spec import Sweep
from .store import Measured
from .table import markdown_table, shown, write_csv


def write_report(
    sweep: Sweep, measured: Sequence[Measured], missing: int, folder: Path, command: str
) -> str:
    """Write CSVs, plots, Markdown and JSON; the paragraph.

    Args:
        sweep: the file.
        measured: its cells that are there, in order; at least one.
        missing: cells that are not.
        folder: for the files.
        command: that was typed, for the reader.

    Raises:
        ConfigError: a plot's column is in no row.
    """
    rows = [row for one in measured for row in one.rows]
    summary = sweep.kind.summary(rows)
    paragraph = sweep.kind.paragraph(summary)
    if missing:
        paragraph = (
            f"Not finished: {missing} of {missing + len(measured)} cells are missing. {paragraph}"
        )
    plots = _plots(sweep, summary, folder)
    write_csv(rows, folder / f"{sweep.name}.csv")
    write_csv(summary, folder / f"{sweep.name}_summary.csv")
    facts = _facts(sweep, measured, missing, command)
    write_json(
        folder / f"{sweep.name}.json",
        {**facts, "paragraph": paragraph, "plots": plots, "rows": shown(rows),
         "summary": shown(summary), "yaml": sweep.text},
    )  # fmt: skip
    with atomic_write(folder / f"{sweep.name}.md") as stream:
        stream.write(_markdown(sweep, summary, paragraph, plots, facts))
    return paragraph


def _plots(sweep: Sweep, summary: Sequence[Row], folder: Path) -> list[str]:
    names = []
    for number, plot in enumerate(sweep.plots, 1):
        name = f"{sweep.name}.png" if number == 1 else f"{sweep.name}_{number}.png"
        plot_rows(summary, plot, sweep.title, folder / name)
        names.append(name)
    return names


def _facts(sweep: Sweep, measured: Sequence[Measured], missing: int, command: str) -> Json:
    """Where the figures come from."""
    machines: list[Json] = []
    for one in measured:
        if one.machine not in machines:
            machines.append(one.machine)
    dates = sorted(one.date for one in measured)
    return {
        "name": sweep.name,
        "title": sweep.title,
        "question": sweep.question,
        "note": sweep.note,
        "kind": sweep.kind.name,
        "command": command,
        "commits": sorted({one.commit or "unknown" for one in measured}),
        "first_date": dates[0],
        "last_date": dates[-1],
        "machines": machines,
        "seconds": round(sum(one.seconds for one in measured), 1),
        "cells": len(measured),
        "missing": missing,
    }


def _markdown(
    sweep: Sweep, summary: Sequence[Row], paragraph: str, plots: Sequence[str], facts: Json
) -> str:
    parts = [f"# {sweep.title}", sweep.question]
    parts += [f"![{sweep.title}]({name})" for name in plots]
    parts.append(paragraph)
    if sweep.note:
        parts.append(f"**What this does not say.** {sweep.note}")
    parts.append(markdown_table(_plotted(sweep, summary), _columns(sweep)).rstrip())
    machines = "; ".join(
        ", ".join(f"{name} {value}" for name, value in one.items()) for one in facts["machines"]
    )
    parts.append(
        f"Measured by `{facts['command']}`, commit {', '.join(facts['commits'])}, "
        f"{facts['first_date']} to {facts['last_date']}, {facts['cells']} cells in "
        f"{facts['seconds']:,.0f} s of one process each. Machine: {machines}."
    )
    return "\n\n".join(parts) + "\n"


def _plotted(sweep: Sweep, summary: Sequence[Row]) -> list[Row]:
    """Rows with a figure that is plotted; the CSV has the others too."""
    names = {name for plot in sweep.plots for name in plot.y}
    return [row for row in summary if any(row.get(name) is not None for name in names)]


def _columns(sweep: Sweep) -> list[str]:
    """What the table shows: what identifies a row and what is plotted, with its difference."""
    named = list(dict.fromkeys(name for cell in sweep.kind.cells() for name in cell.columns))
    columns = list(named)
    for plot in sweep.plots:
        columns += [plot.series or "", plot.panels or "", plot.x]
        for y in plot.y:
            columns += [y, f"{y}_minus_baseline"]
    return [name for name in dict.fromkeys(columns) if name]
