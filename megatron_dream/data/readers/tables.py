"""Rows of Parquet and Arrow files, only the columns that are needed, group by group.

A group is a row group of Parquet or a record batch of Arrow. Arrow files are what ``datasets`` saves:
the IPC stream format; the IPC file format is read too. The one place that imports pyarrow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import DataError
from .files import InputFile
from .limits import Limits
from .paths import RecordError, names_in_words
from .storage import import_package, open_binary

_ROWS = 256  # decoded to Python objects at once


@dataclass(slots=True)
class Rows:
    """Some rows of one group, or why the rest of the group is left out.

    Attributes:
        first: number of the first in the file.
        count: how many.
        records: their values; empty where ``error`` is set.
        error: why they cannot be read.
    """

    first: int
    count: int
    records: list[dict[str, Any]]
    error: str | None = None


class Table(Protocol):
    """An open table file."""

    columns: list[str]

    def sizes(self) -> list[int]:
        """Bytes of every group as stored."""

    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Rows]:
        """Rows of the groups in [start, stop)."""

    def close(self) -> None:
        """Let go of the file."""


class TableError(Exception):
    """The file is no table, or damaged; says why."""


@contextlib.contextmanager
def open_table(file: InputFile, limits: Limits) -> Iterator[Table]:
    """Open a Parquet or Arrow file.

    Raises:
        TableError: it is damaged, or has more columns than the limits allow.
        DataError: it cannot be opened.
    """
    arrow = import_package("pyarrow", f"{file.path}: reading a table")
    with _told_apart(file, arrow):
        table: Table = (
            _ArrowTable(file, limits) if file.format == "arrow" else _Parquet(file, limits)
        )
    try:
        if len(table.columns) > limits.fields:
            raise TableError(
                f"{len(table.columns):,} columns, over the limit of {limits.fields:,} (fields)"
            )
        yield table
    finally:
        table.close()


@contextlib.contextmanager
def _told_apart(file: InputFile, arrow: Any) -> Iterator[None]:
    """Damage becomes a ``TableError``; a disk or network that fails stops the run."""
    try:
        yield
    except arrow.ArrowException as error:
        raise TableError(_sentence(error)) from None
    except UnicodeDecodeError as error:  # pyarrow decodes names when they are asked for
        raise TableError(f"a column's name is not UTF-8 ({error.reason})") from None
    except OSError as error:
        if error.errno is None:  # pyarrow says so of damaged content too
            raise TableError(_sentence(error)) from None
        raise DataError(f"{file.path} cannot be read: {error}; run again to go on.") from error


class _Parquet:
    def __init__(self, file: InputFile, limits: Limits) -> None:
        self._arrow = import_package("pyarrow", file.path)
        parquet = import_package("pyarrow.parquet", f"{file.path}: reading a table")
        self._file, self._limits = file, limits
        self._stream = open_binary(file.path) if file.is_remote else None
        try:
            source = self._stream or file.path
            self._parquet = parquet.ParquetFile(source, pre_buffer=file.is_remote)
        except BaseException:
            if self._stream:
                self._stream.close()
            raise
        self._metadata = self._parquet.metadata
        self.columns: list[str] = list(self._parquet.schema_arrow.names)

    def close(self) -> None:
        self._parquet.close()
        if self._stream:
            self._stream.close()

    def sizes(self) -> list[int]:
        return [
            sum(group.column(i).total_compressed_size for i in range(group.num_columns))
            for group in map(self._metadata.row_group, range(self._metadata.num_row_groups))
        ]

    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Rows]:
        total = self._metadata.num_row_groups
        first = sum(self._metadata.row_group(i).num_rows for i in range(start))
        for number in range(start, total if stop is None else min(stop, total)):
            count = self._metadata.row_group(number).num_rows
            yield from self._group(number, columns, first, count)
            first += count

    def _group(self, number: int, columns: Sequence[str], first: int, count: int) -> Iterator[Rows]:
        done, limit = 0, self._limits.row_group_bytes
        try:
            with _told_apart(self._file, self._arrow):
                size = self._size(number, columns)
                if size > limit:
                    yield Rows(first, count, [], _too_large("row group", number, size, limit))
                    return
                for batch in self._parquet.iter_batches(
                    batch_size=_ROWS, row_groups=[number], columns=list(columns), use_threads=False
                ):
                    yield Rows(first + done, batch.num_rows, _records(batch))
                    done += batch.num_rows
        except TableError as error:
            reason = f"row group {number} cannot be read from here on: {error}"
            yield Rows(first + done, count - done, [], reason)

    def _size(self, number: int, columns: Sequence[str]) -> int:
        """Unpacked bytes of the columns that are read."""
        group = self._metadata.row_group(number)
        leaves = [group.column(i) for i in range(group.num_columns)]
        wanted = set(columns)
        return sum(
            leaf.total_uncompressed_size
            for leaf in leaves
            if leaf.path_in_schema in wanted or leaf.path_in_schema.partition(".")[0] in wanted
        )


class _ArrowTable:
    def __init__(self, file: InputFile, limits: Limits) -> None:
        self._arrow = import_package("pyarrow", file.path)
        self._ipc = import_package("pyarrow.ipc", file.path)
        self._file, self._limits = file, limits
        self._stream = (
            self._arrow.PythonFile(open_binary(file.path), mode="r")
            if file.is_remote
            else self._arrow.memory_map(file.path)
        )
        try:
            self._is_file_format = bytes(self._stream.read(6)) == b"ARROW1"
            self.columns: list[str] = list(self._open([]).schema.names)
        except BaseException:
            self._stream.close()
            raise

    def close(self) -> None:
        self._stream.close()

    def sizes(self) -> list[int]:
        with _told_apart(self._file, self._arrow):
            return [batch.nbytes for batch in self._batches(self._open(None))]

    def rows(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[Rows]:
        first = 0
        try:
            with _told_apart(self._file, self._arrow):
                reader = self._open([self.columns.index(name) for name in columns])
                for number, batch in enumerate(self._batches(reader)):
                    if stop is not None and number >= stop:
                        return
                    if number >= start:
                        yield from self._batch(number, batch, first)
                    first += batch.num_rows
        except TableError as error:
            yield Rows(first, 1, [], f"the file cannot be read from here on: {error}")

    def _open(self, included: list[int] | None) -> Any:
        self._stream.seek(0)
        options = self._ipc.IpcReadOptions(use_threads=False)
        if included:
            options.included_fields = included
        kind = self._ipc.open_file if self._is_file_format else self._ipc.open_stream
        return kind(self._stream, options=options)

    def _batches(self, reader: Any) -> Iterator[Any]:
        if self._is_file_format:
            return (reader.get_batch(i) for i in range(reader.num_record_batches))
        return iter(reader)

    def _batch(self, number: int, batch: Any, first: int) -> Iterator[Rows]:
        limit = self._limits.row_group_bytes
        if batch.nbytes > limit:
            reason = _too_large("record batch", number, batch.nbytes, limit)
            yield Rows(first, batch.num_rows, [], reason)
            return
        self._check(batch)
        for start in range(0, batch.num_rows, _ROWS):
            part = batch.slice(start, _ROWS)
            yield Rows(first + start, part.num_rows, _records(part))

    def _check(self, batch: Any) -> None:
        """Make sure that offsets lie inside their buffers: Arrow trusts them, a damaged file crashes.

        Invalid UTF-8 is found behind that, and told value by value later.
        """
        for column in batch.columns:
            try:
                column.validate(full=True)
            except self._arrow.ArrowInvalid as error:
                if "UTF8" not in str(error):
                    raise


def _records(batch: Any) -> list[dict[str, Any]]:
    """Rows of a batch as records; a value that is no UTF-8 is an error in its place."""
    names = batch.schema.names
    columns = [_values(batch.column(i)) for i in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: Any) -> list[Any]:
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(item) for item in column]
    if any(isinstance(value, bytes) for value in values):
        return [_decoded(value) for value in values]
    return list(values)


def _value(item: Any) -> Any:
    try:
        return item.as_py()
    except UnicodeDecodeError as error:
        return RecordError(f"holds invalid UTF-8 at byte {error.start}")


def _decoded(value: Any) -> Any:
    """A binary column that holds text."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        return RecordError(f"holds invalid UTF-8 at byte {error.start}")


def _too_large(kind: str, number: int, size: int, limit: int) -> str:
    return (
        f"{kind} {number} has {size:,} bytes in the columns that are read, over the limit of {limit:,} "
        "(row_group_bytes)"
    )


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def missing_columns(path: str, name: str, columns: Sequence[str]) -> DataError:
    """The error for a table without a column that the text is made of."""
    return DataError(
        f"{path} has no field {name!r}; it has {names_in_words(dict.fromkeys(columns))}: name one of them."
    )
