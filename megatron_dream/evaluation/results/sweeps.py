"""Results of the verb ``sweep``: each JSON in ``docs/results/sweeps`` is an entry by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import DataError
from .entries import NOT_RECORDED, Entry, Picture
from .facts import read_result, short_commit

_PICTURES = (".png", ".svg")
_CELLS = "cells"  # measured cells, beside the report where a sweep ran in this folder


def read_sweeps(folder: Path) -> list[Entry]:
    """Entries of all reports in a folder and those below it, by title; none where there is no folder.

    Raises:
        DataError: a JSON is damaged or lacks what tells where its figures come from.
    """
    reports = [path for path in sorted(folder.rglob("*.json")) if not is_cell(path, folder)]
    return sorted((_entry(path, folder) for path in reports), key=lambda entry: entry.title)


def is_cell(path: Path, folder: Path) -> bool:
    """Whether a file belongs to a measured cell in the sweeps' folder, which reports are made of."""
    return path.is_relative_to(folder) and _CELLS in path.relative_to(folder).parts


def _entry(path: Path, folder: Path) -> Entry:
    report = read_result(path)
    if not isinstance(report, dict):
        raise DataError(
            f"{path}: no report of a sweep; write it again by megatron-dream sweep --report."
        )
    title, command = _told(path, report, "title"), _told(path, report, "command")
    question = _told(path, report, "question")
    files = [file for file in sorted(path.parent.iterdir()) if _is_of(file, path.stem)]
    names = {file: file.relative_to(folder.parent).as_posix() for file in files}
    missing, cells = report.get("missing", 0), report.get("cells")
    seconds = report.get("seconds")
    counted = f"{cells} cells" if cells else ""
    if counted and seconds:
        counted += f", {seconds:,.0f} s of one process each"
    return Entry(
        title=title,
        shows=f"{question} {report.get('paragraph', '')}".strip(),
        misses=[f"{missing} cells are not measured."] if missing else [],
        limits=str(report.get("note", "")).strip(),
        command=command,
        commit=_commits(report),
        date=_days(report),
        machine=_several(report, "machine", "machines") or NOT_RECORDED,
        conditions=counted,
        files=[name for file, name in names.items() if file.suffix not in _PICTURES],
        pictures=[Picture(name, f"{title}: {question}") for file, name in names.items()
                  if file.suffix in _PICTURES],
    )  # fmt: skip


def _told(path: Path, report: dict[str, Any], name: str) -> str:
    value = report.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{path}: {name} is missing, so that nobody can tell what was measured; write the report "
            "again by megatron-dream sweep --report."
        )
    return value.strip()


def _is_of(file: Path, name: str) -> bool:
    """``NAME.md``, ``NAME_2.png`` and ``NAME_summary.csv``, but not those of a sweep NAME_other."""
    if not file.is_file() or not file.stem.startswith(name):
        return False
    rest = file.stem.removeprefix(name)
    return rest in ("", "_summary") or (rest[0] == "_" and rest[1:].isdigit())


def _several(report: dict[str, Any], one: str, many: str) -> str:
    """A fact that is text, a mapping, or a list of them."""
    value = report.get(one) or report.get(many) or []
    return ", ".join(
        ", ".join(f"{name} {of}" for name, of in each.items())
        if isinstance(each, dict)
        else short_commit(str(each))
        for each in (value if isinstance(value, list) else [value])
    )


def _commits(report: dict[str, Any]) -> str:
    text = _several(report, "commit", "commits")
    return NOT_RECORDED if text in ("", "unknown") else text  # unknown: measured outside a clone


def _days(report: dict[str, Any]) -> str:
    dates = [report.get(name) for name in ("date", "first_date", "last_date")]
    days = dict.fromkeys(str(date)[:10] for date in dates if date)
    return " to ".join(days) or NOT_RECORDED
