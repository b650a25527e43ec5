"""One file to read: what its name says of its content, and what tells it from a changed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["jsonl", "parquet", "arrow", "text"]
Compression = Literal["gz", "zst"]

JSONL_SUFFIXES = (".jsonl", ".json", ".ndjson")
_TABLES: dict[str, Format] = {".parquet": "parquet", ".arrow": "arrow"}
_COMPRESSED: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a corpus.

    Attributes:
        path: where it is: a local path or a URL that fsspec understands.
        format: by name; what is neither lines nor a table is text, one document a file.
        compression: by name.
        size: bytes as stored.
        root: the folder that was asked for, or empty where the file itself was.
        stamp: modification time or entity tag, to notice a change.
    """

    path: str
    format: Format
    compression: Compression | None
    size: int
    root: str = ""
    stamp: str = ""

    @property
    def name(self) -> str:
        """Path relative to the root where there is one, else as given: what ids are made of."""
        return self.path[len(self.root) :].lstrip("/") if self.root else self.path

    @property
    def is_remote(self) -> bool:
        """Whether fsspec has to open it."""
        return "://" in self.path

    def identity(self) -> dict[str, Any]:
        """Plain values that differ once the file has changed."""
        return {"path": self.path, "size": self.size, "stamp": self.stamp}


def content_of(name: str) -> tuple[Format, Compression | None]:
    """Format and compression that a file name promises."""
    stem, ending = _split(name)
    if ending in _TABLES:
        return _TABLES[ending], None
    compression = _COMPRESSED.get(ending)
    if compression:
        ending = _split(stem)[1]
    return ("jsonl" if ending in JSONL_SUFFIXES else "text"), compression


def _split(name: str) -> tuple[str, str]:
    base = name.rsplit("/", 1)[-1]
    stem, dot, ending = base.rpartition(".")
    return (stem, dot + ending.lower()) if dot else (base, "")
