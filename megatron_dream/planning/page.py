"""A plan as one HTML page: figures, memory of each stage, the step's parts, layouts. No network, no script.

Bars are SVG with a title for each part, and every number stands in a table as well. Light and dark
follow the reader's system.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from .hardware import GIB
from .limits import scaling_limit
from .plan import Plan
from .search import SearchResult, describe
from .text import LABELS, MEMORY_PARTS, STEP_PARTS

_STYLE = Path(__file__).parent / "plan.css"
_WIDTH = 1000  # of a bar, in its own units


def plan_page(
    plan: Plan,
    *,
    title: str,
    hints: Sequence[str] = (),
    result: SearchResult | None = None,
    top: int = 12,
) -> str:
    """The page.

    Args:
        plan: what is shown in full.
        title: of the run.
        hints: sentences about what would help.
        result: layouts to compare with.
        top: how many of them.
    """
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    body = [
        _heading(plan, title),
        _figures(plan),
        "<h2>Memory of a rank, by pipeline stage</h2>",
        _memory(plan),
        "<h2>Where a step goes</h2>",
        _step(plan),
        "<h2>A checkpoint</h2>",
        _save(plan),
        "<h2>What would help</h2>",
        _hints([*hints, scaling_limit(plan.job.layout).sentence()]),
    ]
    if result is not None:
        body += ["<h2>Layouts</h2>", _layouts(plan, result, top)]
    body.append(
        '<p class="soft">A prediction. Formulas, units, sources and errors against published runs: '
        "docs/planning.md.</p>"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'sha256-{digest}'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Plan of {escape(title)}</title><style>{style}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _heading(plan: Plan, title: str) -> str:
    job = plan.job
    what = f"{job.layout.world_size} x {plan.gpu.name}, {job.precision}, {describe(job)}"
    return (
        f"<header><h1>{escape(title)}</h1><p>{escape(what)}</p>"
        f'<p class="soft">{escape(job.layout.equation())}.</p></header>'
    )


def _figures(plan: Plan) -> str:
    memory = f"{plan.memory.total / GIB:.1f} of {plan.gpu.memory_gib:.0f}"
    verdict = "GiB on the fullest rank" if plan.fits else "GiB: does not fit"
    if plan.is_tight:
        verdict += ", tight"
    figures = [
        (f"{plan.days:.2f}", f"days for {plan.token_budget / 1e9:,.1f}B tokens", ""),
        (f"{plan.gpu_hours:,.0f}", "GPU hours", ""),
        (f"{plan.step.total:.3f} s", "a step", ""),
        (f"{plan.tokens_per_second_per_gpu:,.0f}", "tokens/s a GPU", ""),
        (f"{plan.mfu:.1%}", "MFU", ""),
        (memory, verdict, "yes" if plan.fits else "no"),
    ]
    cards = (
        f'<div class="figure {kind}"><b>{escape(value)}</b><span>{escape(words)}</span></div>'
        for value, words, kind in figures
    )
    return f'<div class="figures">{"".join(cards)}</div>'


def _hints(sentences: Sequence[str]) -> str:
    return f"<section>{''.join(f'<p>{escape(text)}</p>' for text in sentences)}</section>"


def _bar(parts: Sequence[tuple[str, float]], scale: float, unit: str, limit: float = 0.0) -> str:
    """Parts side by side, ``scale`` being the whole width; a mark at ``limit``."""
    shapes, x = [], 0.0
    for index, (name, value) in enumerate(parts):
        width = _WIDTH * value / scale
        if width > 0:
            text = f"{name}: {value:.3g} {unit}"
            shapes.append(
                f'<rect class="c{index}" x="{x:.2f}" y="0" width="{width:.2f}" height="24">'
                f"<title>{escape(text)}</title></rect>"
            )
        x += width
    if limit:
        shapes.append(
            f'<rect class="limit" x="{_WIDTH * limit / scale - 2:.2f}" y="0" width="4" height="24">'
            f"<title>{limit:.1f} {escape(unit)}: the GPU's memory</title></rect>"
        )
    spoken = ", ".join(f"{name} {value:.3g}" for name, value in parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} 24" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(spoken)}">{"".join(shapes)}</svg>'
    )


def _legend(names: Iterable[str]) -> str:
    items = (
        f'<li><svg viewBox="0 0 10 10"><rect class="c{index}" width="10" height="10" rx="2"/></svg>'
        f"{escape(name)}</li>"
        for index, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _memory(plan: Plan) -> str:
    names = [_label(name) for name in MEMORY_PARTS]
    limit = plan.gpu.memory_gib
    scale = max(limit, plan.memory.total / GIB) * 1.02
    rows, cells = [], []
    for stage, parts in enumerate(plan.stages):
        values = [getattr(parts, name) / GIB for name in MEMORY_PARTS]
        layers, total = sum(plan.job.chunks[stage]), parts.total / GIB
        bar = _bar(list(zip(names, values, strict=True)), scale, "GiB", limit)
        rows.append(
            f'<div class="bar"><span>stage {stage}, {layers} layers</span>{bar}'
            f'<span class="value">{total:.1f} GiB</span></div>'
        )
        cells.append(
            [f"{stage}", f"{layers}", *(f"{value:.2f}" for value in values), f"{total:.2f}"]
        )
    table = _table(["stage", "layers", *names, "total GiB"], cells)
    return f"<section>{''.join(rows)}{_legend([*names])}{table}</section>"


def _step(plan: Plan) -> str:
    names = [_label(name) for name in STEP_PARTS]
    values = [getattr(plan.step, name) for name in STEP_PARTS]
    total = plan.step.total
    bar = _bar(list(zip(names, values, strict=True)), total, "s")
    cells = [
        [name, f"{value:.4f}", f"{value / total:.1%}"]
        for name, value in zip(names, values, strict=True)
    ]
    table = _table(["part", "seconds", "share"], [*cells, ["total", f"{total:.4f}", "100.0%"]])
    return (
        f'<section><div class="bar"><span>one step</span>{bar}'
        f'<span class="value">{total:.3f} s</span></div>{_legend(names)}{table}</section>'
    )


def _save(plan: Plan) -> str:
    rows = {
        "on disk, GB": lambda save: f"{save.disk_bytes / 1e9:,.1f}",
        "host memory of a rank, GiB": lambda save: f"{save.host_bytes_per_rank / GIB:,.2f}",
        f"of a node, of {plan.gpu.host_memory_gib:,.0f} GiB": lambda save: (
            f"{save.host_bytes_per_node / GIB:,.0f}{'' if save.fits_host else ': does not fit'}"
        ),
        f"written at {plan.gpu.storage_gb_s:g} GB/s a node, s": lambda save: (
            f"{save.write_seconds:,.1f}"
        ),
        "training stands still, s": lambda save: f"{save.stall_seconds:,.1f}",
        "the same with checkpoint.async_save, s": lambda save: f"{save.async_stall_seconds:,.1f}",
    }
    cells = [[name, *(tell(save) for save in plan.saves)] for name, tell in rows.items()]
    names = [save.optimizer_format for save in plan.saves]
    return f"<section>{_table(['optimizer as', *names], cells)}</section>"


def _layouts(plan: Plan, result: SearchResult, top: int) -> str:
    shown = describe(plan.job)
    rows = []
    for found in result.ranked[:top]:
        layout = describe(found.job)
        cells = [
            layout,
            f"{found.step.total:.3f}",
            f"{found.tokens_per_second:,.0f}",
            f"{found.mfu:.1%}",
            f"{found.memory.total / GIB:.1f}",
            f"{found.bubble:.1%}",
            f"{found.days:.2f}",
        ]
        rows.append(_row(cells, "own" if layout == shown else ""))
    head = _head(["layout", "step s", "tokens/s", "MFU", "GiB", "stages wait", "days"])
    best = f"<table>{head}{''.join(rows)}</table>" if rows else ""
    count = f"{len(result.ranked):,} layouts fit, {len(result.rejected):,} do not."
    others = [_row([found.layout, found.reason], "", wide=True) for found in result.rejected[:top]]
    others += [
        _row([f"{number:,} not legal, such as", text], "", wide=True)
        for text, number in result.illegal
    ]
    rest = (
        f"<table>{_head(['not possible', 'why'], words=True)}{''.join(others)}</table>"
        if others
        else ""
    )
    return f'<section><p>{count}</p><div class="scroll">{best}{rest}</div></section>'


def _head(names: Sequence[str], *, words: bool = False) -> str:
    cells = []
    for index, name in enumerate(names):
        css = ' class="words"' if words or index == 0 else ""
        cells.append(f"<th{css}>{escape(name)}</th>")
    return f"<tr>{''.join(cells)}</tr>"


def _row(cells: Sequence[str], kind: str, *, wide: bool = False) -> str:
    parts = []
    for index, cell in enumerate(cells):
        css = "words" if index == 0 else "words wide" if wide else ""
        parts.append(
            f'<td class="{css}">{escape(cell)}</td>' if css else f"<td>{escape(cell)}</td>"
        )
    return f'<tr class="{kind}">{"".join(parts)}</tr>' if kind else f"<tr>{''.join(parts)}</tr>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(_row(cells, "") for cells in rows)
    top = _head(head) if any(head) else ""
    return f'<div class="scroll"><table>{top}{body}</table></div>'
