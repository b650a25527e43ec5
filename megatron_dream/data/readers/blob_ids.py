"""Lists of Software Heritage blob ids as corpora publish them: one file a row, or one repository a row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ..document import Reject
from .byte_blocks import open_blocks
from .files import InputFile
from .limits import Limits
from .lines import line_batches
from .paths import RecordError, names_in_words
from .records import parse_record
from .tables import TableError, open_table

KEPT = {
    "blob_id": "string",
    "content_id": "string",
    "repo_name": "string",
    "path": "string",
    "language": "string",
    "src_encoding": "string",
    "length_bytes": "int64",
    "score": "double",
    "int_score": "int64",
    "detected_licenses": "list",
    "license_type": "string",
}
"""Fields that go with a text, by Arrow type. Stack-Edu has nearly all; The Stack v2's list most of
them under ``files``, the repository's name beside it."""

_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")


@dataclass(slots=True)
class BlobReference:
    """One file to fetch.

    Attributes:
        blob_id: name of its object in the bucket.
        encoding: of its bytes; UTF-8 where the list says nothing.
        fields: of ``KEPT``, what the list says.
        record: number of the row.
    """

    blob_id: str
    encoding: str
    fields: dict[str, Any]
    record: int


def blob_references(file: InputFile, limits: Limits) -> Iterator[BlobReference | Reject]:
    """Every id of one list in order.

    Raises:
        DataError: the list cannot be read, or is a table without ids.
    """
    for number, row in enumerate(_rows(file, limits)):
        if isinstance(row, RecordError):
            yield Reject(file.name, number, number, str(row))
            continue
        nested = row.get("files")
        for item in nested if isinstance(nested, list) else [row]:
            yield _reference(file, number, {**row, **item} if isinstance(item, dict) else row)


def _reference(file: InputFile, number: int, row: Mapping[str, Any]) -> BlobReference | Reject:
    blob_id = row.get("blob_id")
    if not isinstance(blob_id, str) or not _ID.fullmatch(blob_id):
        reason = f"blob_id {str(blob_id)[:60]!r} is no id; the record has {names_in_words(row)}"
        return Reject(file.name, number, number, reason)
    fields = {name: row[name] for name in KEPT if row.get(name) is not None}
    encoding = row.get("src_encoding")
    return BlobReference(
        blob_id, encoding if isinstance(encoding, str) and encoding else "UTF-8", fields, number
    )


def _rows(file: InputFile, limits: Limits) -> Iterator[dict[str, Any] | RecordError]:
    if file.format == "jsonl":
        return _json_rows(file, limits)
    if file.format == "text":
        raise DataError(f"{file.path} is no list of ids; give .parquet, .arrow or .jsonl files.")
    return _table_rows(file, limits)


def _json_rows(file: InputFile, limits: Limits) -> Iterator[dict[str, Any] | RecordError]:
    blocks = open_blocks(file, 0, None, limits)
    for batch in line_batches(blocks, 0, skips_first=False, limit=limits.line_bytes):
        for line in batch.lines:
            try:
                record = parse_record(line, limits.line_bytes)
            except RecordError as error:
                yield error
            else:
                if record is not None:
                    yield record
        if batch.error is not None:
            yield RecordError(f"the file cannot be read from here on: {batch.error}")


def _table_rows(file: InputFile, limits: Limits) -> Iterator[dict[str, Any] | RecordError]:
    try:
        with open_table(file, limits) as table:
            wanted = [name for name in table.columns if name in KEPT or name == "files"]
            if not {"blob_id", "files"} & set(wanted):
                there = names_in_words(dict.fromkeys(table.columns))
                raise DataError(f"{file.path} has neither blob_id nor files; it has {there}.")
            for rows in table.rows(wanted, 0, None):
                yield from rows.records
                if rows.error is not None:
                    yield RecordError(rows.error)
    except TableError as error:
        yield RecordError(f"the file cannot be read from here on: {error}")
