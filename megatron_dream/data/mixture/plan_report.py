"""A plan as a table on a terminal, as plain lines, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from .plan import MixturePlan, SourcePlan

HEADERS = (
    "source",
    "weight",
    "tokens needed",
    "tokens available",
    "epochs",
    "samples",
    "disk now",
    "disk needed",
    "state",
)
_TEXT_COLUMNS = (0, len(HEADERS) - 1)  # the others are numbers, to the right


def print_plan(plan: MixturePlan) -> None:
    """Print it, in colour where somebody looks."""
    if not sys.stdout.isatty():
        print("\n".join(plain_report(plan)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_footer=True, pad_edge=False)
    for number, (header, footer) in enumerate(zip(HEADERS, _total(plan), strict=True)):
        table.add_column(
            header,
            footer,
            justify="left" if number in _TEXT_COLUMNS else "right",
            overflow="fold",
        )
    for source in plan.sources:
        table.add_row(*_cells(source), style=None if source.entry.found.is_ready else "yellow")
    console = Console(highlight=False)
    console.print(table)
    for line in _lines(plan):
        console.print(line, markup=False)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def plain_report(plan: MixturePlan) -> Iterator[str]:
    """The same as lines of text."""
    rows = [HEADERS, *map(_cells, plan.sources), _total(plan)]
    widths = [max(len(row[number]) for row in rows) for number in range(len(HEADERS))]
    for row in rows:
        cells = [
            cell.ljust(width) if number in _TEXT_COLUMNS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    yield from _lines(plan)
    for warning in plan.warnings:
        yield f"warning: {warning}"


def plan_values(plan: MixturePlan) -> dict[str, Any]:
    """The same as JSON values: tokens, bytes and shares are plain numbers, null is unknown."""
    target = plan.target
    return {
        "token_budget": target.token_budget,
        "sequence_length": target.sequence_length,
        "global_batch_size": target.global_batch_size,
        "train_steps": target.train_steps,
        "samples": target.samples,
        "weight_sum": float(plan.weight_sum),
        "bytes_a_token": target.itemsize,
        "bytes_now": sum(source.entry.found.disk_bytes for source in plan.sources),
        "bytes_needed": sum(source.bytes_needed for source in plan.sources),
        "bytes_to_write": plan.bytes_to_write,
        "bytes_free": plan.free_bytes,
        "contamination": plan.contamination,
        "sources": [_source_values(source) for source in plan.sources],
        "warnings": plan.warnings,
    }


def _source_values(source: SourcePlan) -> dict[str, Any]:
    entry, found = source.entry, source.entry.found
    return {
        "name": entry.name,
        "weight": entry.weight,
        "share": source.share,
        "tokens_needed": source.tokens_needed,
        "tokens_available": source.tokens_available,
        "is_estimate": source.is_estimate,
        "epochs": source.epochs,
        "samples": source.samples,
        "bytes_now": found.disk_bytes,
        "bytes_needed": source.bytes_needed,
        "state": _state(source),
        "prefixes": [{"prefix": str(f.prefix), "tokens": f.num_tokens} for f in found.files],
        "input_files": found.input_files,
        "input_bytes": found.input_bytes,
        "decontaminated_against": entry.decontaminated_against,
    }


def _cells(source: SourcePlan) -> tuple[str, ...]:
    about = "~" if source.is_estimate else ""
    available, epochs = source.tokens_available, source.epochs
    return (
        source.entry.name,
        f"{source.share:.4g}",
        f"{source.tokens_needed:,}",
        "?" if available is None else f"{about}{available:,}",
        "?" if epochs is None else f"{about}{epochs:,.2f}",
        f"{source.samples:,}",
        _size(source.entry.found.disk_bytes),
        _size(source.bytes_needed),
        _state(source),
    )


def _total(plan: MixturePlan) -> tuple[str, ...]:
    sources = plan.sources
    known = [source.tokens_available or 0 for source in sources]
    about = "~" if any(source.is_estimate for source in sources) else ""
    return (
        "total",
        f"{sum(source.share for source in sources):.4g}",
        f"{plan.target.token_budget:,}",
        f"{about}{sum(known):,}",
        "",
        f"{plan.target.samples:,}",
        _size(sum(source.entry.found.disk_bytes for source in sources)),
        _size(sum(source.bytes_needed for source in sources)),
        "",
    )


def _lines(plan: MixturePlan) -> Iterator[str]:
    target = plan.target
    rows = f"{target.samples:,} samples of {target.sequence_length:,} tokens"
    if target.train_steps is not None:
        rows += (
            f", {target.train_steps:,} train steps of {target.global_batch_size:,} samples "
            f"({target.samples * target.sequence_length:,} tokens)"
        )
    yield f"Token budget {target.token_budget:,}: {rows}."
    free = "" if plan.free_bytes is None else f", {_size(plan.free_bytes)} free"
    yield (
        f"Ids take {target.itemsize} bytes each; preprocessing has about {_size(plan.bytes_to_write)} to "
        f"write{free}."
    )
    yield f"Training data: {plan.contamination}."


def _state(source: SourcePlan) -> str:
    found = source.entry.found
    if found.is_ready:
        count = len(found.files)
        return "ready" if count == 1 else f"ready, {count} files"
    if found.shards:
        return f"begun, {found.shards[0]} of {found.shards[1]} shards"
    return "no input" if found.input_files is None else f"raw, {_size(found.input_bytes)}"


def _size(num_bytes: float) -> str:
    """Bytes in decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.2f} TB"
