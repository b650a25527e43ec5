"""Text documents from files, first step of a sample's walk: JSON Lines records and source files.

Reading is cut in two, so that the dear part can run in worker processes: ``iterate_raw`` finds the
records (cheap, in one process, in order), ``read_text`` decodes one (JSON, UTF-8, or the whole
file). A record that is no good is a ``Reject`` with its place and reason, never an exception.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from megatron_dream.tokenizer.inputs import InputFile, list_inputs, open_input

__all__ = ["InputFile", "RawDocument", "Reject", "iterate_raw", "list_inputs", "read_text"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RawDocument:
    """One document as it lies in a file.

    Attributes:
        file: the file it is in.
        line: 1-based line of a JSON Lines record; None where the file is the document.
        payload: the record's bytes; None where ``read_text`` reads the file.
        size: bytes on disk that reading it used up, for progress.
        error: why nothing after this line of the file can be read.
    """

    file: InputFile
    line: int | None = None
    payload: bytes | None = None
    size: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Reject:
    """A record that is left out, with its place and the reason."""

    file: str
    line: int | None
    reason: str

    def as_json(self) -> str:
        """One line of ``P.rejects.jsonl``."""
        return json.dumps({"file": self.file, "line": self.line, "reason": self.reason})


def iterate_raw(files: Iterable[InputFile]) -> Iterator[RawDocument]:
    """Every document of ``files`` in order. Blank lines of JSON Lines files are no records."""
    for file in files:
        if file.is_jsonl:
            yield from _iterate_lines(file)
        else:
            yield RawDocument(file, size=file.size)


def _iterate_lines(file: InputFile) -> Iterator[RawDocument]:
    number = position = 0
    try:
        with open_input(file.path) as (stream, on_disk):
            for number, line in enumerate(stream, start=1):
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                if line.strip():
                    size, position = on_disk.tell() - position, on_disk.tell()
                    yield RawDocument(file, number, line, size)
    except (OSError, EOFError, zlib.error) as error:
        reason = f"the file cannot be read from here on: {error or type(error).__name__}"
        yield RawDocument(file, number + 1, error=reason)


def read_text(raw: RawDocument, json_key: str = "text") -> str | Reject:
    """The text of one document, exactly as it is in the file (a byte order mark is dropped)."""
    try:
        if raw.error is not None:
            raise ValueError(raw.error)
        if raw.payload is not None:
            return _record_text(raw.payload, json_key)
        with open_input(raw.file.path) as (stream, _):
            return _decoded(stream.read().removeprefix(_BYTE_ORDER_MARK))
    except (ValueError, OSError, EOFError, zlib.error) as error:
        return Reject(str(raw.file.path), raw.line, str(error) or type(error).__name__)


def _record_text(payload: bytes, json_key: str) -> str:
    try:
        record = json.loads(_decoded(payload.rstrip()))
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"the record is {_kind(record)}, not an object")
    if json_key not in record:
        raise ValueError(f"field {json_key!r} is missing")
    text = record[json_key]
    if not isinstance(text, str):
        raise ValueError(f"field {json_key!r} is {_kind(text)}, not a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"field {json_key!r} holds half of a surrogate pair at character {error.start}"
        ) from None
    return text


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid UTF-8 at byte {error.start}") from None


def _kind(value: object) -> str:
    names = {
        type(None): "null",
        bool: "a boolean",
        list: "a list",
        dict: "an object",
        str: "a string",
    }
    return names.get(type(value), "a number")
