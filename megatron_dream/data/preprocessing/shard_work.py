"""One shard in a worker: read, filter, tokenize, write its part. What leaves is a small record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import DataError, UserError
from ...tokenizer.base import Tokenizer
from ...tokenizer.fast_engine import FastEngine
from ...tokenizer.load import load_tokenizer
from ..document import Document, Reject
from ..encode_documents import DocumentEncoder
from ..filters import build_filters
from ..readers import Piece, PieceReader, read_piece
from .job import Job
from .parts import PartRecord, PartWriter, add_licences

_BATCH_CHARACTERS = 1 << 20
_BATCH_DOCUMENTS = 1024
Report = Callable[[int, int, int], None]  # documents, tokens, bytes read since the last call


@dataclass(frozen=True)
class EncoderParts:
    """What is dear to load and shared by all workers of a machine."""

    tokenizer: Tokenizer
    engine: FastEngine
    fingerprint: str


def load_encoder_parts(tokenizer_path: str) -> EncoderParts:
    """Load a tokenizer and its fast engine."""
    tokenizer = load_tokenizer(tokenizer_path)
    return EncoderParts(tokenizer, FastEngine(tokenizer), tokenizer.fingerprint)


class ShardWorker:
    """Works on one shard after another.

    Args:
        job: what the shards are of.
        parts: of the encoder, or the error that loading them gave.

    Raises:
        UserError: that error, or a tokenizer other than the job's.
    """

    def __init__(self, job: Job, parts: EncoderParts | UserError) -> None:
        if isinstance(parts, UserError):
            raise parts
        if parts.fingerprint != job.tokenizer.fingerprint:
            raise DataError(
                f"{job.tokenizer_path} is not the tokenizer that this run began with; make it the same "
                f"on every node."
            )
        self.job = job
        self.filters = build_filters(job.filters)
        self.encoder = DocumentEncoder(
            parts.tokenizer,
            engine=parts.engine,
            append_eod=job.append_eod,
            special_tokens_in_text=job.special_tokens_in_text,
        )

    def run(self, number: int, report: Report) -> PartRecord:
        """Make one part.

        Raises:
            DataError: a document that stops the run, or no room on the disk.
        """
        with PartWriter(self.job.parts, number, self.job.dtype) as writer:
            work = _ShardRun(self, number, writer, report)
            for piece in self.job.shards[number].pieces:
                work.read(piece)
            return writer.commit(work.finish())


class _ShardRun:
    """The state of one shard's work."""

    def __init__(
        self, worker: ShardWorker, number: int, writer: PartWriter, report: Report
    ) -> None:
        self.job, self.encoder = worker.job, worker.encoder
        self.filters = worker.filters
        adapter = self.job.adapter
        counts_licences = bool(adapter.licence or adapter.corpus_licence)
        self.fields = tuple(
            dict.fromkeys([*self.filters.fields, *(["licence"] if counts_licences else [])])
        )
        self.writer, self.report = writer, report
        self.record = PartRecord(shard=number)
        self.seconds = {"read": 0.0, "parse": 0.0, "filter": 0.0, "tokenize": 0.0, "write": 0.0}

    def read(self, piece: Piece) -> None:
        """Work on one piece."""
        reader = read_piece(
            piece,
            self.job.files,
            self.job.adapter,
            self.job.limits,
            self.fields,
            source=self.job.source,
        )
        seen = 0
        for batch in self._batches(reader):
            self._work(self._filtered(batch), reader.num_bytes - seen)
            seen = reader.num_bytes
        self.report(0, 0, piece.num_bytes - seen)
        self.record.read_bytes += piece.num_bytes
        self.record.pieces.append((piece.file, reader.num_records))

    def finish(self) -> PartRecord:
        """The record, complete but for checksums."""
        self.record.filters = self.filters.take_counters() if self.filters else {}
        self.record.seconds = {name: round(value, 4) for name, value in self.seconds.items()}
        return self.record

    def _batches(self, reader: PieceReader) -> Iterator[list[Document]]:
        """Documents of about a megabyte together; rejects are noted on the way."""
        batch: list[Document] = []
        size, piece, spent = 0, len(self.record.pieces), 0.0
        started = time.perf_counter()
        for outcome in reader:
            if type(outcome) is Reject:
                self._reject(outcome, piece)
                continue
            batch.append(outcome)  # type: ignore[arg-type]
            size += len(outcome.text)  # type: ignore[union-attr]
            if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
                spent += time.perf_counter() - started
                yield batch
                batch, size, started = [], 0, time.perf_counter()
        spent += time.perf_counter() - started
        self.seconds["read"] += reader.read_seconds
        self.seconds["parse"] += spent - reader.read_seconds
        if batch:
            yield batch

    def _filtered(self, batch: list[Document]) -> list[Document]:
        if not self.filters:
            return batch
        started = time.perf_counter()
        kept = [document for document in batch if self.filters.apply(document) is None]
        self.record.dropped += len(batch) - len(kept)
        self.seconds["filter"] += time.perf_counter() - started
        return kept

    def _work(self, batch: list[Document], num_bytes: int) -> None:
        started = time.perf_counter()
        encoded = self.encoder.encode(batch)
        tokenized = time.perf_counter()
        self.writer.add(encoded.tokens, encoded.lengths)
        self.seconds["tokenize"] += tokenized - started
        self.seconds["write"] += time.perf_counter() - tokenized
        record = self.record
        record.documents += int(encoded.lengths.size)
        record.tokens += int(encoded.tokens.size)
        record.empty += encoded.empty
        add_licences(record.licences, encoded.licences)
        for token, count in encoded.special_tokens.items():
            record.special_tokens[token] = record.special_tokens.get(token, 0) + count
        self.report(int(encoded.lengths.size), int(encoded.tokens.size), num_bytes)

    def _reject(self, reject: Reject, piece: int) -> None:
        """Note a bad record by its number in the piece; merging makes file-wide lines of these."""
        self.record.rejected += 1
        place: dict[str, Any] = {
            "piece": piece,
            "file": reject.file,
            "record": reject.record,
            "reason": reject.reason,
        }
        self.writer.reject(place)
