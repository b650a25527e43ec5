"""One part of what was fetched: texts in ``OUTPUT/NAME``, what was left out and the record beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from ...errors import ConfigError
from ...files import atomic_write, write_json
from .blob_ids import KEPT, BlobReference
from .storage import import_package

OutputFormat = Literal["jsonl.zst", "parquet"]
_FRAME_BYTES = 8 << 20  # of one zstd frame, so that the file can be read by several workers
_ROWS = 2000  # of one Parquet row group


@dataclass
class FetchReport:
    """What became of ids.

    Attributes:
        ids: looked at.
        written: texts.
        text_bytes: of them, in UTF-8.
        left_out: ids without a text, by kind.
    """

    ids: int = 0
    written: int = 0
    text_bytes: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def add(self, other: FetchReport) -> None:
        """Add what became of others."""
        self.ids += other.ids
        self.written += other.written
        self.text_bytes += other.text_bytes
        self.left_out = dict(Counter(self.left_out) + Counter(other.left_out))

    def line(self) -> str:
        """In words."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.left_out.items()))
        return (
            f"{self.ids:,} ids: {self.written:,} texts of {self.text_bytes / 1e6:,.1f} MB; "
            f"left out: {kinds or 'none'}."
        )


class _Writer(Protocol):
    def add(self, row: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...


class PartFiles:
    """Names of one part's files, and whether it is done.

    Args:
        output: folder of the texts.
        state: folder of everything else.
        name: of the part.
        kind: how texts are written.
    """

    def __init__(self, output: Path, state: Path, name: str, kind: OutputFormat) -> None:
        self.data = output / f"{name}.{kind}"
        self.record = state / f"{name}.json"
        self.left_out = state / f"{name}.left_out.jsonl"
        self._kind = kind

    def finished(self) -> FetchReport | None:
        """The report of a part whose texts lie there; None where it is still to do."""
        try:
            values = json.loads(self.record.read_text(encoding="utf-8"))
            if values.pop("stored_bytes") == self.data.stat().st_size:
                return FetchReport(**values)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    @contextmanager
    def writing(self, report: FetchReport) -> Iterator[PartWriter]:
        """A writer; the part exists once the block has ended without an error."""
        with atomic_write(self.data, "wb") as data, atomic_write(self.left_out, "wb") as lost:
            writer = PartWriter(_writer(self._kind, data), lost, report)
            yield writer
            writer.finish()
        size = self.data.stat().st_size
        write_json(self.record, {**asdict(report), "stored_bytes": size})


class PartWriter:
    """Takes texts and what was left out, and counts both."""

    def __init__(self, texts: _Writer, left_out: IO[bytes], report: FetchReport) -> None:
        self._texts, self._left_out, self.report = texts, left_out, report

    def text(self, blob: BlobReference, text: str) -> None:
        """One text."""
        self._texts.add({**blob.fields, "text": text})
        self.report.ids += 1
        self.report.written += 1
        self.report.text_bytes += len(text.encode("utf-8"))

    def leave_out(self, kind: str, place: dict[str, Any]) -> None:
        """One id without a text."""
        self.report.ids += 1
        self.report.left_out[kind] = self.report.left_out.get(kind, 0) + 1
        self._left_out.write(json.dumps({"kind": kind, **place}).encode() + b"\n")

    def finish(self) -> None:
        """Write what is still held."""
        self._texts.finish()


def _writer(kind: OutputFormat, stream: IO[bytes]) -> _Writer:
    if kind == "parquet":
        return _ParquetWriter(stream)
    if kind == "jsonl.zst":
        return _JsonWriter(stream)
    raise ConfigError(f"The format {kind!r} is none; write jsonl.zst or parquet.")


class _JsonWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._held = stream, bytearray()
        self._dumps = import_package("orjson", "Writing JSON").dumps
        self._compressor = import_package("zstandard", "Writing .zst").ZstdCompressor(level=3)

    def add(self, row: dict[str, Any]) -> None:
        self._held += self._dumps(row, default=str) + b"\n"
        if len(self._held) >= _FRAME_BYTES:
            self.finish()

    def finish(self) -> None:
        if self._held:
            self._stream.write(self._compressor.compress(bytes(self._held)))
            self._held.clear()


class _ParquetWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._arrow = import_package("pyarrow", "Writing Parquet")
        parquet = import_package("pyarrow.parquet", "Writing Parquet")
        string = self._arrow.string()
        types = {"list": self._arrow.list_(string)}
        fields = [(n, types.get(t) or self._arrow.type_for_alias(t)) for n, t in KEPT.items()]
        self._schema = self._arrow.schema([*fields, ("text", self._arrow.large_string())])
        self._writer = parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._held: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._held.append(row)
        if len(self._held) >= _ROWS:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._held:
            table = self._arrow.Table.from_pylist(self._held, schema=self._schema)
            self._writer.write_table(table)
            self._held.clear()
