"""Figures as words: estimates, differences, spreads. Every sentence says what its interval allows."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Row


def number(value: float) -> str:
    """Three digits that count, without an exponent where people need none."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def has(row: Row, name: str) -> bool:
    """Whether a row knows an estimate."""
    return isinstance(row.get(name), int | float)


def figure(row: Row, name: str) -> float:
    """A number of a row that has it."""
    value = row[name]
    assert isinstance(value, int | float), f"{name} is {value!r}"
    return float(value)


def estimate(row: Row, name: str, percent: bool = False) -> str:
    """``45.1% (40.2% to 50.0%)``, or without an interval where there is none."""
    told = _percent if percent else number
    if not has(row, f"{name}_low") or not has(row, f"{name}_high"):
        return told(figure(row, name))
    low, high = figure(row, f"{name}_low"), figure(row, f"{name}_high")
    return f"{told(figure(row, name))} ({told(low)} to {told(high)})"


def is_shown(row: Row, name: str) -> bool:
    """Whether the interval of a difference leaves out 0."""
    low, high = figure(row, f"{name}_low"), figure(row, f"{name}_high")
    return low > 0 or high < 0


def difference(row: Row, name: str, percent: bool = False) -> str:
    """``3.1 points above (1.0 to 5.2)``, or that no difference is shown, with the interval."""
    unit = " points" if percent else ""
    scale = 100.0 if percent else 1.0
    if not has(row, name):
        return "not compared"
    if not has(row, f"{name}_low") or not has(row, f"{name}_high"):
        return f"{scale * figure(row, name):+.3g}{unit}, without an interval"
    value, low, high = (scale * figure(row, f"{name}{end}") for end in ("", "_low", "_high"))
    if not is_shown(row, name):
        return f"no difference shown ({value:+.3g}{unit}, {low:+.3g} to {high:+.3g})"
    if value < 0:
        return f"{-value:.3g}{unit} below ({-high:.3g} to {-low:.3g})"
    return f"{value:.3g}{unit} above ({low:.3g} to {high:.3g})"


def setting(row: Row, columns: Sequence[str]) -> str:
    """``temperature 0.4, cache dual`` of what is known."""
    told = []
    for name in columns:
        value = row.get(name)
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            told.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(told)


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
