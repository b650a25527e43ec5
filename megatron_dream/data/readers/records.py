"""One line of JSON to a document or the reason why it is none: the careful way.

The fast way is in reading.py; what it cannot take comes here. orjson refuses a little more than it
must: NaN, which Python itself writes, and half surrogates in fields that nobody asked for. Such
records are taken.
"""

from __future__ import annotations

import json
from typing import Any

from .adapter import kind_of
from .lines import Line, LongLine
from .paths import RecordError, names_in_words


def parse_record(line: Line, limit: int, error: Exception | None = None) -> dict[str, Any] | None:
    """The record of a line; None where the line is blank.

    Args:
        line: with its line feed, if it has one.
        limit: bytes that a line may have, for the message.
        error: what orjson said of it.

    Raises:
        RecordError: it is broken; says how and in which column.
    """
    if isinstance(line, LongLine):
        raise RecordError(f"{line.length:,} bytes, over the limit of {limit:,} (line_bytes)")
    if not line.strip():
        return None
    try:
        text = line.decode("utf-8").rstrip()
    except UnicodeDecodeError as problem:
        raise RecordError(f"invalid UTF-8 at byte {problem.start}") from None
    if error is not None and _is_too_deep(error):
        raise RecordError("broken JSON: nested too deeply")  # whatever Python's own limit
    try:
        record = json.loads(text)
    except json.JSONDecodeError as problem:
        raise RecordError(f"broken JSON: {problem.msg} at column {problem.colno}") from None
    except RecursionError:
        raise RecordError("broken JSON: nested too deeply") from None
    except ValueError as problem:  # a number of thousands of digits
        raise RecordError(f"broken JSON: {str(problem).partition(';')[0]}") from None
    if not isinstance(record, dict):
        raise RecordError(f"the record is {kind_of(record)}, not an object")
    return record


def _is_too_deep(error: Exception) -> bool:
    """Whether orjson gave up at its depth (1,024); its words differ by version."""
    words = str(error).lower()
    return "limit" in words and ("depth" in words or "recursion" in words)


def check_text(text: object, name: str) -> None:
    """Make sure that a text can be written as UTF-8.

    Raises:
        RecordError: it is no string or holds half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise RecordError(f"field {name!r} is {kind_of(text)}, not a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError(
            f"field {name!r} holds half of a surrogate pair at character {error.start}"
        ) from None


def check_fields(fields: dict[str, Any]) -> None:
    """The same for fields of any kind."""
    for name, value in fields.items():
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
        except (UnicodeEncodeError, RecursionError, ValueError):
            raise RecordError(f"field {name!r} cannot be written as UTF-8") from None


def check_count(record: dict[str, Any], limit: int) -> None:
    """Bound the fields of a record.

    Raises:
        RecordError: it has more than ``limit``.
    """
    if len(record) > limit:
        raise RecordError(
            f"{len(record):,} fields, over the limit of {limit:,} (fields): {names_in_words(record, 3)}"
        )
