"""Reading a shard: pieces of files to documents and rejects, the first arrow of a sample's walk.

The fast way through JSON Lines is one orjson call, one look-up and one ``Document`` a line; whatever
fails there is looked at again, slowly, by records.py, which knows the reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ...errors import DataError
from ..document import Document, Reject
from .adapter import Adapter
from .byte_blocks import UnreadableError, open_blocks
from .files import InputFile
from .limits import Limits
from .lines import Line, LineBatch, LongLine, line_batches
from .paths import MissingFieldError, RecordError
from .planning import Piece, Shard
from .records import check_count, check_fields, check_text, parse_record
from .storage import import_package
from .tables import Rows, TableError, missing_columns, open_table

Outcome = Document | Reject
_T = TypeVar("_T")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_shard(
    shard: Shard,
    files: Sequence[InputFile],
    adapter: Adapter,
    limits: Limits | None = None,
    fields: Sequence[str] = (),
    source: str = "",
) -> Iterator[Outcome]:
    """Every document of a shard in order, and a ``Reject`` for every record that is none.

    Args:
        shard: from ``plan_shards``.
        files: the list that it was planned for.
        adapter: where the text is.
        limits: of what is read; the defaults where None.
        fields: what else documents shall carry; ``licence``, ``language`` and ``quality`` are looked up
            by the adapter, other names in the record. What a record lacks, its document lacks.
        source: name in the recipe.

    Raises:
        DataError: a file is gone or its disk or network fails, or a table lacks the text's column.
        MissingDependencyError: a format needs a package that is not installed.
    """
    first = 0
    for piece in shard.pieces:
        reader = read_piece(
            piece, files, adapter, limits, fields, source=source, first_record=first
        )
        yield from reader
        first += reader.num_records


def read_piece(
    piece: Piece,
    files: Sequence[InputFile],
    adapter: Adapter,
    limits: Limits | None = None,
    fields: Sequence[str] = (),
    *,
    source: str = "",
    first_record: int = 0,
) -> PieceReader:
    """One piece of a shard, to be iterated once; see ``read_shard``."""
    file = files[piece.file]
    return PieceReader(piece, file, adapter, limits or Limits(), fields, source, first_record)


class PieceReader:
    """Iterates a piece's documents and rejects.

    Attributes:
        num_records: passed so far, blank lines included; all of the piece's once it is read.
        num_bytes: of the file, read so far (for tables the piece's share, once it is read).
        read_seconds: spent on bytes and, for tables, on their decoding; the rest is parsing.
    """

    def __init__(
        self,
        piece: Piece,
        file: InputFile,
        adapter: Adapter,
        limits: Limits,
        fields: Sequence[str],
        source: str,
        first_record: int,
    ) -> None:
        self.piece, self.file, self.adapter, self.limits = piece, file, adapter, limits
        self.asked, self.source, self.first = tuple(fields), source, first_record
        self._fields_of = adapter.fields_getter(self.asked)
        self.num_records = 0
        self.num_bytes = 0
        self.read_seconds = 0.0

    def __iter__(self) -> Iterator[Outcome]:
        if self.file.format == "jsonl":
            return self._lines()
        return self._whole() if self.file.format == "text" else self._rows()

    def _lines(self) -> Iterator[Outcome]:
        loads = import_package("orjson", "Reading JSON").loads
        text_of, fields_of = self.adapter.text_getter(), self._fields_of
        source, name, most = self.source, self.file.name, self.limits.fields
        for batch in self._batches():
            position, number = batch.position, self.first + self.num_records
            for line in batch.lines:
                try:
                    record = loads(line)
                    text = text_of(record)
                    if type(text) is not str or len(record) > most:
                        raise TypeError
                    fields = fields_of(record) if fields_of else {}
                except (ValueError, LookupError, TypeError, AttributeError, RecordError) as error:
                    if (outcome := self._line(line, position, number, error)) is not None:
                        yield outcome
                else:
                    yield Document(text, source, name, position, number, fields)
                position += len(line)
                number += 1
            self.num_records = number - self.first
            if batch.error is not None:
                yield self._reject(batch.position, f"{_FROM_HERE}: {batch.error}")
                self.num_records += 1

    def _batches(self) -> Iterator[LineBatch]:
        piece, limit = self.piece, self.limits.line_bytes
        blocks = open_blocks(self.file, piece.start, piece.stop, self.limits)
        start = piece.start if self.file.compression is None else 0
        skips_first = piece.start > 0
        batches = line_batches(blocks, start, skips_first=skips_first, limit=limit)
        with _stopping_at_failures(self.file):
            for batch in self._timed(batches):
                if piece.start == 0 and self.num_records == 0:
                    batch.lines = _without_mark(batch.lines)
                self.num_bytes = blocks.consumed
                yield batch

    def _line(self, line: Line, position: int, number: int, error: Exception) -> Outcome | None:
        """Look at a line again that the fast way did not take."""
        try:
            content = line.content if isinstance(line, _Marked) else line
            record = parse_record(content, self.limits.line_bytes, error)
            return None if record is None else self._document(record, position, number)
        except MissingFieldError as problem:
            if self.adapter.needs_fetch:
                raise self._ids_only() from None
            return Reject(self.file.name, number, position, str(problem))
        except RecordError as problem:
            return Reject(self.file.name, number, position, str(problem))

    def _document(self, record: dict[str, Any], position: int, number: int) -> Document:
        check_count(record, self.limits.fields)
        text = self.adapter.text_of(record)
        check_text(text, self.adapter.template or self.adapter.text)
        fields = self._fields_of(record) if self._fields_of else {}
        check_fields(fields)
        return Document(text, self.source, self.file.name, position, number, fields)

    def _whole(self) -> Iterator[Outcome]:
        """A file that is one document."""
        self.num_records = 1
        blocks = open_blocks(self.file, 0, None, self.limits)
        held, limit = bytearray(), self.limits.line_bytes
        try:
            with _stopping_at_failures(self.file):
                for _, block in self._timed(blocks):
                    held += block
                    if len(held) > limit:
                        raise RecordError(f"over the limit of {limit:,} bytes (line_bytes)")
            self.num_bytes = blocks.consumed
            text = bytes(held.removeprefix(_BYTE_ORDER_MARK)).decode("utf-8")
        except UnicodeDecodeError as error:
            yield self._reject(0, f"invalid UTF-8 at byte {error.start}", 0)
        except UnreadableError as error:
            yield self._reject(0, f"{_FROM_HERE}: {error}", 0)
        except RecordError as error:
            yield self._reject(0, str(error), 0)
        else:
            known: dict[str, Any] = {"path": self.file.name, "licence": self.adapter.corpus_licence}
            fields = {name: known[name] for name in self.asked if known.get(name)}
            yield Document(text, self.source, self.file.name, 0, self.first, fields)

    def _rows(self) -> Iterator[Outcome]:
        try:
            with open_table(self.file, self.limits) as table:
                columns = self._columns(table.columns)
                for rows in self._timed(table.rows(columns, self.piece.start, self.piece.stop)):
                    yield from self._of_rows(rows)
                    self.num_records += rows.count
        except TableError as error:
            if self.piece.start == 0:
                yield self._reject(0, f"{_FROM_HERE}: {error}")
                self.num_records += 1
        self.num_bytes = self.piece.num_bytes

    def _columns(self, columns: list[str]) -> list[str]:
        try:
            return self.adapter.columns(self.asked, columns)
        except RecordError:
            if self.adapter.needs_fetch:
                raise self._ids_only() from None
            lacking = [p.name for p in self.adapter.needed if p.column(columns) is None]
            raise missing_columns(self.file.path, lacking[0], columns) from None

    def _ids_only(self) -> DataError:
        return DataError(
            f"{self.file.path}: no text; {self.adapter.hub} publishes ids of files: fetch them with "
            "tools/fetch_swh.py and read what it writes."
        )

    def _of_rows(self, rows: Rows) -> Iterator[Outcome]:
        if rows.error is not None:
            yield self._reject(rows.first, rows.error)
            return
        number, limit = self.first + self.num_records, self.limits.line_bytes
        for index, record in enumerate(rows.records):
            try:
                text = self.adapter.text_of(record)
                if len(text) * 4 > limit and len(text.encode()) > limit:
                    raise RecordError(f"over the limit of {limit:,} bytes (line_bytes)")
                fields = self._fields_of(record) if self._fields_of else {}
                place = (rows.first + index, number + index)
                yield Document(text, self.source, self.file.name, *place, fields)
            except RecordError as error:
                yield Reject(self.file.name, number + index, rows.first + index, str(error))

    def _timed(self, items: Iterable[_T]) -> Iterator[_T]:
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.read_seconds += time.perf_counter() - started
            yield item

    def _reject(self, position: int, reason: str, passed: int | None = None) -> Reject:
        number = self.first + (self.num_records if passed is None else passed)
        return Reject(self.file.name, number, position, reason)


@contextmanager
def _stopping_at_failures(file: InputFile) -> Iterator[None]:
    """A disk or network that fails is no bad record: it stops the run, which can go on later."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{file.path} cannot be read: {error}; run again to go on.") from error


_FROM_HERE = "the file cannot be read from here on"


class _Marked(LongLine):
    """A first line with a byte order mark: keeps its length, so that positions stay those on disk."""

    def __init__(self, line: bytes) -> None:
        super().__init__(len(line), len(line))
        self.content = line.removeprefix(_BYTE_ORDER_MARK)


def _without_mark(lines: Sequence[Line]) -> Sequence[Line]:
    if lines and isinstance(lines[0], bytes) and lines[0].startswith(_BYTE_ORDER_MARK):
        return [_Marked(lines[0]), *lines[1:]]
    return lines
