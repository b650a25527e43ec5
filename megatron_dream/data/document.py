"""A document on its way from a source to token files, and a record that could not become one.

Whatever is decided about a document (kept, dropped, sampled, tokenized twice) is a function of its
text, its fields and its id, so that one process or sixty-four decide alike.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Document:
    """One text with its place.

    Attributes:
        text: content.
        source: name in the recipe; empty for files named on a command line.
        file: path, relative to the folder that was asked for where there is one.
        position: orders the records of a file: byte offset of a line in the decompressed file, row
            of a table, 0 where the file is the document; in zst files of several frames the frame's
            offset in the file << 36 | offset inside the frame.
        record: number inside the shard, from 0; lines of a JSON Lines file count blank ones.
        fields: further fields of the record that somebody asked for.
    """

    text: str
    source: str
    file: str
    position: int
    record: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """What names the document, and seeds every decision about it."""
        return f"{self.source}/{self.file}:{self.position}"


@dataclass(slots=True)
class Reject:
    """A record that is no document, with its place and the reason."""

    file: str
    record: int
    position: int
    reason: str


def document_hash(document_id: str, salt: str = "") -> int:
    """64 bits of a document's id, the same everywhere: the only chance in filters and samples."""
    digest = hashlib.sha256(f"{salt}\0{document_id}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little")


def document_uniform(document_id: str, salt: str = "") -> float:
    """A number in [0, 1) of a document's id."""
    return (document_hash(document_id, salt) >> 11) * 2.0**-53
