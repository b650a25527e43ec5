"""The plots of a sweep: a row of panels for each y, a line for each series, intervals as bands.

Colours are Okabe and Ito's, which people with any colour vision tell apart; markers and dashes say the same.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config.convert import nearest
from ...errors import ConfigError
from ..plots import import_pyplot, save_figure
from .base import Row
from .spec import Plot
from .table import column_names

# grey for their yellow, which is faint on white; black last: it is the axes' colour too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000")
_MARKERS = "osD^vPX*"
_DASHES = ("-", "--", "-.", ":")
_FEW_VALUES = 8  # of a logarithmic axis, that are its ticks
_MANY_LABELS = 4  # of text on the x axis, from which on they are turned
_LABELS = {
    "flops": "FLOPs of an answer",
    "seconds": "seconds an answer",
    "tokens": "tokens of an answer",
    "passes": "forward passes of an answer",
    "tokens_per_pass": "tokens a forward pass",
    "share_full": "share that fills the canvas",
    "share_empty": "share that ends at once",
    "pad_nats": "PAD's penalty, nats",
    "pad_nats_drawn": "PAD's penalty where the token is drawn, nats",
    "max_new_tokens": "canvas, tokens",
}


def plot_rows(rows: Sequence[Row], plot: Plot, title: str, path: Path) -> None:
    """Write a plot as PNG.

    Raises:
        ConfigError: a column of the plot is in no row.
        MissingDependencyError: matplotlib is not installed.
    """
    check_columns(rows, plot)
    pyplot = import_pyplot()
    panels = _values(rows, plot.panels)
    size = (1.6 + 4.4 * len(panels), 0.9 + 3.1 * len(plot.y))
    figure, grid = pyplot.subplots(
        len(plot.y), len(panels), figsize=size, squeeze=False, sharex="col", sharey="row"
    )
    names = _names(rows, plot.series)
    for line, y in zip(grid, plot.y, strict=True):
        for axes, panel in zip(line, panels, strict=True):
            here = [row for row in rows if _is_in(row, plot.panels, panel)]
            _draw(axes, here, plot, y, names)
        line[0].set_ylabel(label(y))
    for axes, panel in zip(grid[0], panels, strict=True):
        if panel is not None:
            axes.set_title(f"{label(str(plot.panels))}: {_text(panel)}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel(label(plot.x))
    _legend(figure, grid)
    figure.suptitle(textwrap.fill(plot.title or title, 30 * len(panels) + 25), fontsize=11)
    figure.tight_layout()
    save_figure(figure, path)


def check_columns(rows: Sequence[Row], plot: Plot) -> None:
    """Refuse a plot of what is not there.

    Raises:
        ConfigError: naming the column and the nearest one.
    """
    known = column_names(rows)
    wanted = {"x": [plot.x], "y": plot.y, "series": [plot.series], "panels": [plot.panels]}
    for role, columns in wanted.items():
        for column in columns:
            if column is not None and column not in known:
                raise ConfigError(
                    f"the plot's {role} {column!r} is no column; the nearest one is "
                    f"{nearest(column, known)}. Mend the YAML and run it with --report."
                )


def label(column: str) -> str:
    """A column's name as people read it."""
    return _LABELS.get(column, column.replace("_", " "))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(rows: Sequence[Row], column: str | None) -> list[Any]:
    """The values of a column, numbers in order, else as they come; of no column, None."""
    if column is None:
        return [None]
    found = list(dict.fromkeys(row.get(column) for row in rows if row.get(column) is not None))
    if all(isinstance(value, int | float) for value in found):
        found.sort(key=float)  # type: ignore[arg-type]
    return found or [None]


def _is_in(row: Row, column: str | None, value: Any) -> bool:
    """Whether a row belongs to a panel; one without a value (a baseline) belongs to all."""
    return column is None or row.get(column) in (value, None)


def _name(row: Row, series: str | None) -> str:
    """What a row's line is called."""
    value = row.get(series) if series is not None else None
    if value is not None:
        return str(value) if isinstance(value, str) else f"{label(str(series))} {_text(value)}"
    return str(row.get("arm") or "")


def _names(rows: Sequence[Row], series: str | None) -> list[str]:
    """All lines, so that one has the same colour in every panel."""
    order = {value: place for place, value in enumerate(_values(rows, series))}
    ranked = sorted(rows, key=lambda row: order.get(row.get(series or ""), len(order)))
    return list(dict.fromkeys(_name(row, series) for row in ranked))


def _draw(axes: Any, rows: Sequence[Row], plot: Plot, y: str, names: Sequence[str]) -> None:
    """One panel."""
    ticks = [value for value in _values(rows, plot.x) if value is not None]
    is_text = any(isinstance(value, str) for value in ticks)
    places = {value: place if is_text else value for place, value in enumerate(ticks)}
    for number, name in enumerate(names):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": _MARKERS[(number + number // len(COLOURS)) % len(_MARKERS)],
            "linestyle": _DASHES[number // len(COLOURS) % len(_DASHES)],
        }
        mine = [row for row in rows if _name(row, plot.series) == name and row.get(y) is not None]
        _level(axes, [row for row in mine if row.get(plot.x) is None], y, name, style)
        there = [row for row in mine if row.get(plot.x) is not None]
        at = [places[row[plot.x]] for row in there]
        if plot.dots:
            _dots(axes, there, at, y, name, style)
        else:
            _line(axes, there, at, y, name, style, is_text)
    if is_text:
        axes.set_xticks(range(len(ticks)), [textwrap.fill(str(tick), 14) for tick in ticks])
        if len(ticks) > _MANY_LABELS:
            axes.tick_params(axis="x", labelrotation=60)
    if plot.log_x and not is_text:
        axes.set_xscale("log")
        if len(ticks) <= _FEW_VALUES:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    if plot.log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.25)


def _level(axes: Any, rows: Sequence[Row], y: str, name: str, style: dict[str, Any]) -> None:
    """Rows without an x: horizontal lines."""
    for number, row in enumerate(rows):
        known = {"color": style["color"], "linestyle": (0, (4, 2))}
        axes.axhline(row[y], label=name if number == 0 else None, **known)
        low, high = _bounds(row, y)
        if low is not None:
            axes.axhspan(low, high, color=style["color"], alpha=0.08, linewidth=0)


def _dots(
    axes: Any,
    rows: Sequence[Row],
    places: Sequence[float],
    y: str,
    name: str,
    style: dict[str, Any],
) -> None:
    """Rows with an x, each by itself with its interval."""
    if not rows:
        return
    axes.plot(
        places, [row[y] for row in rows], label=name, markersize=6, **style | {"linestyle": ""}
    )
    for x, row in zip(places, rows, strict=True):
        low, high = _bounds(row, y)
        if low is not None:
            axes.vlines([x], low, high, color=style["color"], alpha=0.5)


def _line(
    axes: Any,
    rows: Sequence[Row],
    places: Sequence[float],
    y: str,
    name: str,
    style: dict[str, Any],
    is_text: bool,
) -> None:
    """Rows with an x: a line with a band; dots and their mean where several share an x."""
    points = sorted(zip(places, rows, strict=True), key=lambda point: point[0])
    if not points:
        return
    xs = [x for x, _ in points]
    values = [_value(row, y) for _, row in points]
    if len(set(xs)) < len(xs):
        axes.scatter(xs, values, s=10, color=style["color"], alpha=0.5, linewidth=0)
        unique = sorted(set(xs))
        means = [_mean([v for x, v in zip(xs, values, strict=True) if x == at]) for at in unique]
        axes.plot(unique, means, label=f"{name} (mean over the dots)", markersize=4, **style)
        return
    axes.plot(xs, values, label=name, markersize=5, **style)
    bounds = [(x, *_bounds(row, y)) for x, row in points]
    known = [(x, low, high) for x, low, high in bounds if low is not None and high is not None]
    if not known:
        return
    lows, highs = [low for _, low, _ in known], [high for _, _, high in known]
    if is_text or len(known) == 1:
        axes.vlines([x for x, _, _ in known], lows, highs, color=style["color"], alpha=0.6)
    else:
        axes.fill_between([x for x, _, _ in known], lows, highs, color=style["color"], alpha=0.15,
                          linewidth=0)  # fmt: skip


def _value(row: Row, y: str) -> float:
    value = row[y]
    return float(value) if isinstance(value, int | float) else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _bounds(row: Row, y: str) -> tuple[float | None, float | None]:
    low, high = row.get(f"{y}_low"), row.get(f"{y}_high")
    if low is None or high is None:
        return None, None
    return float(low), float(high)


def _legend(figure: Any, grid: Any) -> None:
    """One legend for all panels, at the right, where there is more than one line."""
    entries: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if len(entries) < 2:
        return
    names = [textwrap.fill(name, 34) for name in entries]
    figure.legend(
        list(entries.values()), names, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False,
        fontsize=9,
    )  # fmt: skip
