"""Documents to token ids, in this process or in several, always in input order.

Each worker process holds one end of a pipe. Chunks are dealt round robin and collected in the same
round, so order needs no bookkeeping, memory is one chunk a worker, and the death of a worker is
seen.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import numpy as np

from megatron_dream.data.sources import RawDocument, Reject, read_text
from megatron_dream.errors import DataError, UserError
from megatron_dream.tokenizer.base import Tokenizer

_CHUNK_BYTES = 1 << 19
_CHUNK_DOCUMENTS = 256


@dataclass
class EncodedChunk:
    """What became of some consecutive documents.

    Attributes:
        tokens: int32, all documents' ids one after the other.
        lengths: ids of each document.
        empty: documents without text.
        rejects: documents that could not be read.
        size: bytes on disk that they came from.
    """

    tokens: np.ndarray
    lengths: list[int] = field(default_factory=list)
    empty: int = 0
    rejects: list[Reject] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True)
class Encoder:
    """What a worker needs to know."""

    tokenizer: Tokenizer
    json_key: str
    append_eod: bool

    def encode(self, documents: list[RawDocument]) -> EncodedChunk:
        """Encode a chunk.

        Raises:
            DataError: a document's ids hold the mask or expand token, which no data may.
        """
        parts: list[np.ndarray] = []
        chunk = EncodedChunk(np.empty(0, np.int32), size=sum(raw.size for raw in documents))
        for raw in documents:
            text = read_text(raw, self.json_key)
            if isinstance(text, Reject):
                chunk.rejects.append(text)
                continue
            ids = np.asarray(self.tokenizer.encode(text), dtype=np.int32)
            if ids.size == 0:
                chunk.empty += 1
                continue
            self._refuse_masks(ids, raw)
            parts.append(
                np.append(ids, np.int32(self.tokenizer.eod_id)) if self.append_eod else ids
            )
            chunk.lengths.append(parts[-1].size)
        if parts:
            chunk.tokens = np.concatenate(parts)
        return chunk

    def _refuse_masks(self, ids: np.ndarray, raw: RawDocument) -> None:
        for number in (self.tokenizer.mask_id, self.tokenizer.expand_id):
            if (ids == number).any():
                where = f"{raw.file.path}" + (f", line {raw.line}" if raw.line else "")
                raise DataError(
                    f"{where}: the text becomes token {number} ({self.tokenizer.token_text(number)}), "
                    "which only training may write; use a tokenizer that has it as a special token."
                )


def chunks_of(documents: Iterable[RawDocument]) -> Iterator[list[RawDocument]]:
    """Consecutive documents of about half a megabyte together."""
    chunk: list[RawDocument] = []
    size = 0
    for raw in documents:
        chunk.append(raw)
        size += raw.size if raw.payload is None else len(raw.payload)
        if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_DOCUMENTS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def encode_all(
    encoder: Encoder, documents: Iterable[RawDocument], workers: int
) -> Iterator[EncodedChunk]:
    """Encode every document; what is yielded does not depend on ``workers``."""
    chunks = chunks_of(documents)
    if workers == 1:
        yield from map(encoder.encode, chunks)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe once threads run
    started: list[tuple[SpawnProcess, Connection]] = []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, encoder), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
        yield from _deal(chunks, [pipe for _, pipe in started])
    finally:
        for process, pipe in started:
            pipe.close()
            process.terminate()
        for process, _ in started:
            process.join()


def _deal(chunks: Iterator[list[RawDocument]], pipes: list[Connection]) -> Iterator[EncodedChunk]:
    """Send chunks round robin, at most one at a time to each worker, and yield results in order."""
    waiting = [False] * len(pipes)
    turn = 0
    for chunk in chunks:
        if waiting[turn]:
            yield _receive(pipes[turn])
        try:
            pipes[turn].send(chunk)
        except OSError as error:
            raise _worker_died() from error
        waiting[turn] = True
        turn = (turn + 1) % len(pipes)
    for offset in range(len(pipes)):
        if waiting[(turn + offset) % len(pipes)]:
            yield _receive(pipes[(turn + offset) % len(pipes)])


def _receive(pipe: Connection) -> EncodedChunk:
    try:
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        raise _worker_died() from error
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _worker_died() -> DataError:
    return DataError(
        "A worker process of preprocessing died, most likely for want of memory; run it again with "
        "fewer --workers."
    )


def _serve(pipe: Connection, encoder: Encoder) -> None:
    """A worker: chunks in, results or a user's error out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    while True:
        try:
            documents = pipe.recv()
        except EOFError:
            return
        try:
            answer: EncodedChunk | UserError = encoder.encode(documents)
        except UserError as error:
            answer = error
        pipe.send(answer)
