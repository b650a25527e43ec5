"""A step of a datatrove pipeline that ends in token files, for those whose corpora go through datatrove.

    LocalPipelineExecutor(
        pipeline=[JsonlReader("raw/"), ..., TokenFilesWriter("data/code", "TOKENIZER")], tasks=8
    )

Task R writes ``data/code_0000R`` (.bin, .idx, .json): the bytes that ``preprocess`` would write for
the same documents. Files exist whole or not at all, so a task that datatrove starts again begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from ..tokenizer.load import load_tokenizer
from .datatrove_package import import_datatrove
from .document import Document
from .encode_documents import DocumentEncoder
from .preprocessing.job import Job, TokenizerIdentity
from .preprocessing.parts import PartRecord, PartWriter
from .preprocessing.run import concatenation_of, publish_parts
from .readers import Limits, text_adapter

_BATCH_CHARACTERS = 1 << 20
_PipelineStep: Any = import_datatrove(
    "pipeline.base", "A step of a datatrove pipeline"
).PipelineStep


class TokenFilesWriter(_PipelineStep):
    """Writes the documents that reach it as token files, one prefix a task, and hands them on.

    Args:
        output_prefix: path without ending; ``_00000`` and so on is added.
        tokenizer: a folder or a SentencePiece model.
        append_eod: whether every document ends with ``<|endoftext|>``.
        special_tokens_in_text: as for ``preprocess``.
    """

    name = "Megatron-Dream token files"
    type = "TOKENIZER"

    def __init__(
        self,
        output_prefix: Path | str,
        tokenizer: Path | str,
        *,
        append_eod: bool = True,
        special_tokens_in_text: Literal["as_text", "as_ids"] = "as_text",
    ) -> None:
        super().__init__()
        self.output_prefix, self.tokenizer_path = Path(output_prefix), str(tokenizer)
        self.append_eod, self.special_tokens_in_text = append_eod, special_tokens_in_text

    def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Write what comes and yield it again; a task without documents writes nothing.

        Raises:
            DataError: a document becomes the mask token, or the engines differ; names its id.
        """
        tokenizer = load_tokenizer(self.tokenizer_path)
        encoder = DocumentEncoder(
            tokenizer,
            append_eod=self.append_eod,
            special_tokens_in_text=self.special_tokens_in_text,
        )
        job = self._job(rank, TokenizerIdentity.of(tokenizer))
        job.parts.mkdir(parents=True, exist_ok=True)
        record = PartRecord(shard=0)
        with PartWriter(job.parts, 0, job.dtype) as writer:
            for batch in _batches(data):
                with self.track_time(unit="batch"):
                    self._write(batch, encoder, writer, record)
                yield from batch
            record = writer.commit(record)
        if record.documents:
            with concatenation_of(job) as whole:
                whole.add(record, is_fresh=True)
                publish_parts(job, [record], whole)

    def _write(
        self, batch: list[Any], encoder: DocumentEncoder, writer: PartWriter, record: PartRecord
    ) -> None:
        documents = [
            Document(text=d.text, source="", file=d.id, position=0, record=0, fields={})
            for d in batch
        ]
        encoded = encoder.encode(documents)
        writer.add(encoded.tokens, encoded.lengths)
        record.documents += int(encoded.lengths.size)
        record.tokens += int(encoded.tokens.size)
        record.empty += encoded.empty
        for token, count in encoded.special_tokens.items():
            record.special_tokens[token] = record.special_tokens.get(token, 0) + count
        self.stat_update("documents", value=int(encoded.lengths.size))
        self.stat_update("tokens", value=int(encoded.tokens.size), unit="batch")

    def _job(self, rank: int, tokenizer: TokenizerIdentity) -> Job:
        prefix = self.output_prefix.with_name(f"{self.output_prefix.name}_{rank:05d}")
        return Job(
            prefix=prefix,
            files=(),
            shards=(),
            tokenizer_path=self.tokenizer_path,
            tokenizer=tokenizer,
            adapter=text_adapter("text"),
            limits=Limits(),
            append_eod=self.append_eod,
            special_tokens_in_text=self.special_tokens_in_text,
        )


def _batches(data: Iterable[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    size = 0
    for document in data:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
