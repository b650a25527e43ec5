"""Reading evaluation sets: JSON Lines, plain or compressed, whose texts must not be in training data.

HumanEval, HumanEval-Infilling and CRUXEval are known by their fields; of any other set the recipe names
the fields.
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal

from ...errors import DataError, MissingDependencyError

SetFormat = Literal["auto", "humaneval", "humaneval_infilling", "cruxeval"]


@dataclass(frozen=True)
class _Format:
    """Texts of a record, each of fields that follow one another, and its item's name."""

    texts: tuple[tuple[str, ...], ...]
    item: str
    marks: frozenset[str]  # fields by which it is recognised


# The most special first. Programs are put together from their parts: a line of a solution alone occurs
# in many programs.
_FORMATS: Mapping[str, _Format] = MappingProxyType(
    {
        "humaneval_infilling": _Format(
            (("prompt", "canonical_solution", "suffix"), ("test",)),
            "task_id",
            frozenset({"task_id", "prompt", "suffix", "canonical_solution", "test"}),
        ),
        "humaneval": _Format(
            (("prompt", "canonical_solution"), ("test",)),
            "task_id",
            frozenset({"task_id", "prompt", "canonical_solution", "test", "entry_point"}),
        ),
        "cruxeval": _Format((("code",),), "id", frozenset({"code", "input", "output", "id"})),
    }
)


@dataclass
class EvaluationSet:
    """One file.

    Attributes:
        path: JSON Lines, also ``.gz`` or ``.zst``.
        name: in reports; default: the file's name without endings.
        format: a known one, or ``auto``: known by its fields.
        fields: the texts of a set of another format, each compared on its own; strings inside lists
            and objects count.
        item: field with the item's name; default: ``task_id`` or ``id``, else the line.
    """

    path: str = ""
    name: str = ""
    format: SetFormat = "auto"
    fields: list[str] = field(default_factory=list)
    item: str = ""

    @property
    def title(self) -> str:
        """Name in reports."""
        return self.name or Path(self.path).name.split(".jsonl")[0].removesuffix(".json")


def read_evaluation_set(one: EvaluationSet) -> Iterator[tuple[str, str]]:
    """``(item, text)`` of every text of a set.

    Raises:
        DataError: the file cannot be read, or lacks what the set says; names the line.
    """
    layout: _Format | None = None
    line_number = 0
    for line_number, line in _lines(one.path):
        record = _record(line, f"{one.path}:{line_number}")
        layout = layout or _layout(one, record)
        item = record.get(layout.item) if layout.item else record.get("task_id", record.get("id"))
        title = f"{one.title} {item if isinstance(item, str | int) else f'line {line_number}'}"
        for names in layout.texts:
            if missing := [name for name in names if name not in record]:
                raise DataError(
                    f"{one.path}:{line_number}: no field {missing[0]!r}; there are "
                    f"{', '.join(record)}: name other fields."
                )
            for text in _joined([record[name] for name in names]):
                yield title, text
    if not line_number:
        raise DataError(f"{one.path}: holds no record; give the evaluation set's file.")


def _layout(one: EvaluationSet, record: Mapping[str, Any]) -> _Format:
    if one.fields:
        return _Format(tuple((name,) for name in one.fields), one.item, frozenset())
    if one.format != "auto":
        return _FORMATS[one.format]
    for layout in _FORMATS.values():
        if layout.marks <= set(record):
            return layout
    raise DataError(
        f"{one.path}: not HumanEval, HumanEval-Infilling or CRUXEval; list the fields to compare under "
        f"fields (there are {', '.join(record)})."
    )


def _joined(values: list[Any]) -> Iterator[str]:
    """One text of several fields; the texts of a single field that holds more than a string."""
    if all(isinstance(value, str) for value in values):
        yield "".join(values)
        return
    for value in values:
        yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}); mend the evaluation set.") from None
    if not isinstance(record, dict):
        raise DataError(f"{place}: not a JSON object; mend the evaluation set.")
    return record


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank."""
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such evaluation set; check the path.") from None
    except _damage() as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file.") from None


def _damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    zstandard = sys.modules.get("zstandard")
    return (OSError, EOFError, zlib.error, *([zstandard.ZstdError] if zstandard else []))


def _open(path: str) -> IO[bytes]:
    if path.endswith(".gz"):
        return gzip.open(path)  # type: ignore[return-value]
    if path.endswith((".zst", ".zstd")):
        try:
            zstandard = importlib.import_module("zstandard")
        except ImportError:
            raise MissingDependencyError(
                f"{path} needs zstandard: pip install zstandard."
            ) from None
        return io.BufferedReader(zstandard.open(path, "rb"))
    return open(path, "rb")
