"""Phase read: files of known schemas to problems, one line each in the order of the inputs.

A record that is broken is named with file, line and field, counted and left out; so is a second record of
an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...data.document import Document
from ...data.readers import DATA_SUFFIXES, InputFile, Limits, Piece, list_inputs, read_piece
from ...data.sft.conversation import RecordAdapter
from ...errors import ConfigError, DataError
from ...sandbox import ProblemError
from ..problems import RlProblem
from .decision import Decision
from .schemas import SCHEMAS, Schema, Unsuitable

_LINE_BYTES = 1 << 30  # LiveCodeBench has tests of hundreds of megabytes
BROKEN = "broken record"


@dataclass(frozen=True)
class Source:
    """Files of one schema."""

    schema: Schema
    files: tuple[InputFile, ...]

    def identity(self) -> dict[str, Any]:
        """Plain values that differ once schema or files do."""
        return {"schema": self.schema.name, "files": [file.identity() for file in self.files]}


def sources_of(inputs: Sequence[str]) -> list[Source]:
    """What ``--input SCHEMA:PATH...`` names.

    Raises:
        ConfigError: an input without a known schema.
        DataError: a path gives no file, or one that holds no records.
    """
    sources = []
    for given in inputs:
        name, colon, path = given.partition(":")
        if not colon or name not in SCHEMAS or not path:
            raise ConfigError(
                f"--input {given}: write SCHEMA:PATH with a schema of {', '.join(SCHEMAS)}."
            )
        files = tuple(list_inputs([path], DATA_SUFFIXES))
        for file in files:
            if file.format == "text":
                raise DataError(
                    f"{file.path} is no JSON Lines, Parquet or Arrow file by its name; give one that is."
                )
        sources.append(Source(SCHEMAS[name], files))
    return sources


def read_sources(sources: Sequence[Source]) -> Iterator[RlProblem | Decision]:
    """Every problem, and a decision for each record that is none."""
    seen: set[str] = set()
    for source in sources:
        for number in range(len(source.files)):
            for outcome in _read_file(source, number):
                if isinstance(outcome, RlProblem):
                    if outcome.id in seen:
                        outcome = Decision(outcome.id, "dropped", "an earlier record has its id")
                    else:
                        seen.add(outcome.id)
                yield outcome


def _read_file(source: Source, number: int) -> Iterator[RlProblem | Decision]:
    schema, file = source.schema, source.files[number]
    adapter = RecordAdapter(text=schema.needed[0], keys=schema.needed)
    fields = (*schema.needed, *schema.optional)
    unit = "line" if file.format == "jsonl" else "row"
    reader = read_piece(
        Piece(number), source.files, adapter, Limits(line_bytes=_LINE_BYTES), fields
    )
    for outcome in reader:
        where = f"{file.path}, {unit} {outcome.record + 1}"
        if not isinstance(outcome, Document):
            yield Decision(where, "dropped", BROKEN, f"{where}: {outcome.reason}")
            continue
        try:
            problem = schema.convert(outcome.fields, where)
            _check_answer(problem, where)
            yield problem
        except ProblemError as error:
            yield Decision(where, "dropped", BROKEN, str(error))
        except Unsuitable as error:
            yield Decision(where, "dropped", str(error))


def _check_answer(problem: RlProblem, where: str) -> None:
    """Refuse an answer that no response can be compared with."""
    if problem.kind == "output":
        try:
            problem.wanted()
        except (ValueError, RecursionError) as error:
            raise ProblemError(f"{where}: the answer is no plain value ({error}).") from None
