"""What one preparation of infilling data is of, and the part of it that one worker does: a shard.

Read, take texts out of records, drop what cannot be split or is too long, write a part. Parts are those
of preprocess (preprocessing/parts.py) with bytes for ids and four int32 a text in ``.len``: piece of the
shard, record in the piece, bytes, tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...tokenizer.base import Tokenizer
from ..document import Document, Reject
from ..filters import FilterChain, FilterSpec, build_filters
from ..preprocessing.parts import PartRecord, PartWriter
from ..readers import Adapter, InputFile, Shard, read_piece
from ..sft.code_text import fences_of
from .splitting import num_lines
from .text_files import FORMAT_VERSION, KIND

Take = Literal["whole", "fences"]
BOS_AND_EOS = 2
EXCERPT_CHARACTERS = 200
NO_FENCE, EMPTY, TOO_SHORT, TOO_LONG = "no_closed_fence", "empty", "too_short", "too_long"
FILTERED, EXACT_DUPLICATE = "filtered", "exact_duplicate"
RULES = (NO_FENCE, EMPTY, TOO_SHORT, FILTERED, TOO_LONG, EXACT_DUPLICATE)  # in this order


@dataclass
class InfillJob:
    """Everything that decides the output, and nothing else.

    Attributes:
        prefix: of the output.
        files: inputs in their order.
        shards: units of work.
        tokenizer: counts tokens.
        adapter: where the text of a record is.
        take: the ``whole`` text, or the code inside its closed ``fences``, each a text of its own.
        max_length: tokens of a text encoded whole, with BOS and EOS.
        min_lines: that are not blank.
        min_characters: of a text.
        filters: what texts have to pass besides.
        valid_share: of the texts, for validation.
    """

    prefix: Path
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    tokenizer: Tokenizer
    adapter: Adapter
    take: Take = "whole"
    max_length: int = 1024
    min_lines: int = 2
    min_characters: int = 16
    filters: tuple[FilterSpec, ...] = ()
    valid_share: float = 0.0

    @property
    def parts(self) -> Path:
        """Folder of the part files."""
        return self.prefix.with_name(f"{self.prefix.name}.parts")

    def identity(self) -> dict[str, Any]:
        """What decides the output, as plain values."""
        return {
            "kind": KIND,
            "version": FORMAT_VERSION,
            "inputs": [file.identity() for file in self.files],
            "shards": len(self.shards),
            "tokenizer": self.tokenizer.fingerprint,
            "adapter": self.adapter.identity(),
            "take": self.take,
            "max_length": self.max_length,
            "min_lines": self.min_lines,
            "min_characters": self.min_characters,
            "filters": [spec.identity() for spec in self.filters],
            "valid_share": self.valid_share,
        }

    def run(self, shard: int) -> None:
        """Make one part.

        Raises:
            DataError: a file is not what it was, or there is no room on the disk.
        """
        with PartWriter(self.parts, shard, np.dtype(np.uint8)) as writer:
            work = _ShardRun(self, shard, writer)
            for index in range(len(self.shards[shard].pieces)):
                work.read(index)
            work.record.filters = self.chain.take_counters() if self.filters else {}
            writer.commit(work.record)

    @cached_property
    def chain(self) -> FilterChain:
        """The filters, of this process."""
        return build_filters(self.filters)

    def texts_of(self, text: str) -> list[str]:
        """What of a record's text is learnt; nothing where code was asked for and no fence is closed."""
        if self.take == "whole":
            return [text]
        return [fence.text for fence in fences_of(text) if fence.is_closed]

    def fault_of(self, text: str) -> tuple[str, str] | None:
        """Rule and detail where a text cannot be split; None where it can."""
        if not text.strip():
            return EMPTY, "no characters but blanks"
        if (lines := num_lines(text)) < self.min_lines:
            return TOO_SHORT, f"{lines} of {self.min_lines} lines"
        if len(text) < self.min_characters:
            return TOO_SHORT, f"under {self.min_characters} characters"
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Without what each process makes for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "chain"}


class _ShardRun:
    """The state of one shard's work."""

    def __init__(self, job: InfillJob, number: int, writer: PartWriter) -> None:
        self.job, self.shard, self.writer = job, job.shards[number], writer
        self.record = PartRecord(shard=number)

    def read(self, index: int) -> None:
        """Work on one piece."""
        job, piece = self.job, self.shard.pieces[index]
        reader = read_piece(piece, job.files, job.adapter, fields=job.chain.fields)
        for outcome in reader:
            if isinstance(outcome, Reject):
                self.record.rejected += 1
                self._note(index, outcome.record, reason=outcome.reason)
                continue
            texts = job.texts_of(outcome.text)
            for text in texts:
                self._take(index, dataclasses.replace(outcome, text=text))
            if not texts:
                self._drop(index, outcome, NO_FENCE, "no code between fences that are closed")
        self.record.read_bytes += piece.num_bytes
        self.record.pieces.append((piece.file, reader.num_records))

    def _take(self, piece: int, document: Document) -> None:
        job = self.job
        if fault := job.fault_of(document.text):
            self._drop(piece, document, *fault)
            return
        if job.filters and (reason := job.chain.apply(document)) is not None:
            self._drop(piece, document, FILTERED, reason)
            return
        num_tokens = len(job.tokenizer.encode(document.text)) + BOS_AND_EOS
        if num_tokens > job.max_length:
            self._drop(piece, document, TOO_LONG, f"over {job.max_length:,} tokens")
            return
        raw: NDArray[Any] = np.frombuffer(document.text.encode("utf-8"), np.uint8)
        place = np.array([piece, document.record, raw.size, num_tokens], np.int32)
        self.writer.add(raw, place)
        self.record.documents += 1
        self.record.tokens += num_tokens
        self.record.text_bytes += raw.size

    def _drop(self, piece: int, document: Document, rule: str, detail: str) -> None:
        self.record.dropped += 1
        beginning = document.text[:EXCERPT_CHARACTERS]
        self._note(piece, document.record, rule=rule, detail=detail, text=beginning)

    def _note(self, piece: int, number: int, **what: str) -> None:
        self.writer.reject({"piece": piece, "record": number, **what})
