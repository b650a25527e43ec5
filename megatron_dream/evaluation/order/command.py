"""``megatron-dream order``: a file of recorded generations to a table and a plot."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ...files import atomic_write, write_json
from ..page import SampleRecord, write_page
from ..plots import import_pyplot
from .analysis import Analysis, SampleOrder, analyse, as_dict
from .plot import plot_order
from .record import read_records
from .table import table_of


def run_order(
    file: Path | str,
    output: Path | None = None,
    page: Path | None = None,
    *,
    any_settings: bool = False,
    seed: int = 0,
    quiet: bool = False,
) -> Analysis:
    """Print what a file says of the order; write ``order.md``, ``order.json`` and ``order.png``.

    Args:
        file: JSON lines of ``sample --history``.
        output: a folder; made if missing. None: nothing is written.
        page: HTML that plays every sample, its label beside it, and saves pictures of it.
        any_settings: take samples whose blocks or penalty force a part of the order too.
        seed: of the shuffled null and of the interval.
        quiet: print nothing.

    Raises:
        DataError: the file is not what it should be, or its order was forced.
        MissingDependencyError: a plot is asked for and matplotlib is not installed.
    """
    records = read_records(file)
    for record in records:
        forced = record.forced_by()
        if forced and not any_settings:
            raise DataError(
                f"{record.where}: sampled with {forced}, which forces a part of the order: sample without "
                "it, or give --any-settings."
            )
    if output is not None:
        import_pyplot()  # before the work, not after it
    analysis = analyse(records, seed)
    if not analysis.samples:
        raise DataError(f"{file}: no sample has two tokens of text; give longer ones.")
    table = table_of(analysis)
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "order.md") as stream:
            stream.write(table)
        write_json(folder / "order.json", as_dict(analysis))
        plot_order(analysis, folder / "order.png")
    if page is not None:
        write_page(page, [_shown(n, one) for n, one in enumerate(analysis.samples, 1)], "Order")
    if not quiet:
        print(table, end="")
    return analysis


def _shown(number: int, one: SampleOrder) -> SampleRecord:
    """A sample as the page shows it: its text, without what stands behind the end."""
    record = one.record
    confidence = record.confidence or [None] * len(record.tokens)
    meta = {"name": f"sample {number}", "order": one.evidence.label or "no label"}
    for name, value in (
        ("Kendall", one.figures.kendall),
        ("local AR-ness @1", one.figures.local_ar_ness[1]),
        ("global AR-ness @1", one.figures.global_ar_ness[1]),
        ("structure first", one.evidence.structure_first),
    ):
        if value is not None:
            meta[name] = f"{value:.2f}"
    return SampleRecord(
        prompt_tokens=[record.prefix] if record.prefix else [],
        tokens=record.text_tokens,
        opened_step=record.steps,
        confidence=confidence[: record.num_tokens],
        text=record.prefix + "".join(record.text_tokens),
        meta=meta,
    )
