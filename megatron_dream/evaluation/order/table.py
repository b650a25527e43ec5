"""The table of an analysis, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .analysis import Analysis, SampleOrder
from .early import EarlyStructure

_COLUMNS = {  # of the samples' table: by name, how it is got
    "label": lambda one: one.evidence.label or "-",
    "kendall": lambda one: _number(one.figures.kendall),
    "local@1": lambda one: _number(one.figures.local_ar_ness[1]),
    "global@1": lambda one: _number(one.figures.global_ar_ness[1]),
    "structure first": lambda one: _number(one.evidence.structure_first),
    "disorder": lambda one: _number(one.evidence.disorder),
    "coverage": lambda one: _number(one.evidence.coverage),
    "tokens": lambda one: str(one.figures.num_tokens),
    "segments": lambda one: str(one.evidence.num_segments),
    "read as": lambda one: "code" if one.layout.is_code else "prose",
}


def table_of(analysis: Analysis) -> str:
    """Means beside the nulls, labels, early structure, and a line a sample."""
    lines = [_summary(analysis), ""]
    if analysis.forced_by:
        lines += [f"**Part of the order was forced: {analysis.forced_by}.**", ""]
    lines += _against_nulls(analysis)
    lines += ["", _labels(analysis), "", _early(analysis.early), ""]
    lines += [_line(["sample", *_COLUMNS]), _line(["---"] * (len(_COLUMNS) + 1))]
    lines += [_sample_line(number, one) for number, one in enumerate(analysis.samples, start=1)]
    return "\n".join(lines) + "\n"


def _summary(analysis: Analysis) -> str:
    tokens = sum(one.figures.num_tokens for one in analysis.samples)
    text = f"{len(analysis.samples)} samples, {tokens} tokens of text."
    if analysis.num_skipped:
        text += f" {analysis.num_skipped} left out: fewer than two tokens."
    return text


def _against_nulls(analysis: Analysis) -> list[str]:
    names = list(analysis.means)
    lines = [_line(["mean of the samples", *names]), _line(["---"] * (len(names) + 1))]
    lines.append(_line(["model", *(_number(analysis.means[name]) for name in names)]))
    for null in analysis.nulls:
        cells = []
        for name in names:
            cell = _number(null.means.get(name))
            if name in null.ranges:
                low, high = null.ranges[name]
                cell += f" ({low:.2f} to {high:.2f})"
            cells.append(cell)
        lines.append(_line([null.name, *cells]))
    return lines


def _labels(analysis: Analysis) -> str:
    counts = ", ".join(f"{label} {count}" for label, count in analysis.labels.items())
    without = len(analysis.samples) - sum(analysis.labels.values())
    without_one = f"; {without} without one: too short, or all in one step" if without else ""
    return f"Labels: {counts}{without_one}."


def _early(early: EarlyStructure | None) -> str:
    if early is None:
        return "Early structure at equal entropy: no pair of tokens to compare."
    noun, interval = "sample" if early.samples == 1 else "samples", "no interval from one sample"
    if early.low is not None and early.high is not None:
        interval = f"{early.low:.1%} to {early.high:.1%}"
    return (
        f"Early structure: a token of structure opens before another in {early.crude:.1%} of pairs; in "
        f"{early.matched:.1%} ({interval}) of the {early.pairs} pairs of equal "
        f"first-step entropy, from {early.samples} {noun} (50%: not early for what it is)."
    )


def _sample_line(number: int, one: SampleOrder) -> str:
    return _line([str(number), *(column(one) for column in _COLUMNS.values())])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
