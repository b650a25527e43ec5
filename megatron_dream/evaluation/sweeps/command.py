"""``megatron-dream sweep``: measure what is missing of a YAML file's cells, and tell what was found."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConfigError, DataError
from ...launcher import launched
from ..plots import import_pyplot
from ..progress import sample_progress
from .base import Cell
from .report import write_report
from .spec import Sweep, read_sweep
from .store import Shard, Store

DEFAULT_OUTPUT = Path("sweeps")


def run_sweep(
    file: Path,
    *,
    output: Path | None = None,
    shard: str = "1/1",
    list: bool = False,  # noqa: A002  the flag's name
    report: bool = False,
    quiet: bool = False,
) -> int:
    """Measure a sweep, or list its cells, or only report; 0.

    Args:
        file: the YAML.
        output: folder; default ``sweeps/NAME``.
        shard: ``I/N``: every N-th cell from the I-th on.
        list: print the cells and measure nothing.
        report: report what is there and measure nothing.
        quiet: no progress.

    Raises:
        UserError: something in the file or on disk is not what it should be.
    """
    if list and report:
        raise ConfigError("--list and --report exclude each other; give one.")
    if launched().world_size > 1:
        raise ConfigError(
            "a sweep measures each cell in one process; start processes by themselves, with --shard I/N."
        )
    part = Shard.of(shard)
    sweep = read_sweep(Path(file))
    folder = Path(output) if output is not None else DEFAULT_OUTPUT / sweep.name
    store = Store(folder, sweep.kind, sweep.kind.cells())
    if list:
        _list(store, part)
        return 0
    if not report:
        _measure(sweep, store, part.of_cells(store.cells), quiet)
    command = f"megatron-dream sweep {shlex.quote(str(file))}"
    _report(sweep, store, f"{command} --output {shlex.quote(str(folder))}", must=report)
    return 0


def _list(store: Store, part: Shard) -> None:
    for cell in part.of_cells(store.cells):
        state = "measured" if store.read(cell) is not None else "missing "
        told = ", ".join(f"{n} {value}" for n, value in cell.columns.items() if value is not None)
        print(f"{state}  {cell.key}  {told}")
    missing = len(store.missing())
    print(f"{len(store.cells)} cells, {missing} missing")


def _measure(sweep: Sweep, store: Store, mine: Sequence[Cell], quiet: bool) -> None:
    """Measure this process's cells that are missing."""
    done = {cell.key for cell in mine if store.read(cell) is not None}
    left = [cell for cell in mine if cell.key not in done]
    if not left:
        return
    import_pyplot()  # what is missing is missed before the work
    sweep.kind.ready()
    with sample_progress(sweep.name, len(left), quiet=quiet, unit="cells") as count:
        for cell in left:
            store.measure(cell)
            count(1)


def _report(sweep: Sweep, store: Store, command: str, must: bool) -> None:
    """Write the report when no cell is missing, or of what is there where it ``must`` be."""
    found = [store.read(cell) for cell in store.cells]
    measured = [one for one in found if one is not None]
    missing = len(found) - len(measured)
    if not measured and must:
        raise DataError(f"{store.folder}: no cell is measured; run the sweep without --report.")
    if missing and not must:
        print(f"{missing} of {len(found)} cells are missing; --report tells what is there.")
        return
    paragraph = write_report(sweep, measured, missing, store.folder, command)
    print(f"{paragraph}\n{store.folder / sweep.name}.md")
