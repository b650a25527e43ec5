"""What one preparation of SFT data is of, and the part of it that one worker does: a shard.

Read, take samples out of records, apply the rules, render to ids, write a part. Parts are those of
preprocess (preprocessing/parts.py) with four int32 a sample in ``.len``: piece of the shard, record in
the piece, tokens of the prompt, tokens of the response.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...tokenizer.base import Tokenizer
from ..document import Reject
from ..preprocessing.job import small_vocabulary
from ..preprocessing.parts import PartRecord, PartWriter
from ..readers import InputFile, Shard, read_piece
from ..readers.paths import RecordError
from .conversation import SampleFields, TextSample
from .rendering import Renderer, Template
from .rules import TOO_LONG, RuleOptions, RuleSet

KIND, FORMAT_VERSION = "sft", 1  # of P.json
EXCERPT_CHARACTERS = 200


@dataclass
class SftJob:
    """Everything that decides the output, and nothing else.

    Attributes:
        prefix: of the output.
        files: inputs in their order.
        shards: units of work.
        tokenizer: loaded; workers are given it.
        fields: where prompt and response are.
        rules: what samples have to pass.
        template: how prompts are rendered.
        system: the system's text for prompts that have none.
        max_length: tokens of prompt, response and one end token together.
        valid_share: of the prompts, for validation.
    """

    prefix: Path
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    tokenizer: Tokenizer
    fields: SampleFields
    rules: RuleOptions = field(default_factory=RuleOptions)
    template: Template = "chat"
    system: str | None = None
    max_length: int = 4000
    valid_share: float = 0.0

    @property
    def parts(self) -> Path:
        """Folder of the part files."""
        return self.prefix.with_name(f"{self.prefix.name}.parts")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ids on disk: uint16 below 65,500 tokens, else int32."""
        return np.dtype(np.uint16 if small_vocabulary(self.tokenizer.vocab_size) else np.int32)

    def identity(self) -> dict[str, Any]:
        """What decides the parts, as plain values."""
        return {
            "kind": KIND,
            "version": FORMAT_VERSION,
            "inputs": [file.identity() for file in self.files],
            "shards": len(self.shards),
            "tokenizer": self.tokenizer.fingerprint,
            "fields": self.fields.adapter.identity(),
            "turns": self.fields.turns if self.fields.messages else None,
            "template": self.template,
            "system": self.system,
            "max_length": self.max_length,
            "rules": self.rules.identity(),
        }

    def run(self, shard: int) -> None:
        """Make one part.

        Raises:
            DataError: a file is gone or an evaluation set cannot be read.
        """
        with PartWriter(self.parts, shard, self.dtype) as writer:
            work = _ShardRun(self, shard, writer)
            for index in range(len(self.shards[shard].pieces)):
                work.read(index)
            writer.commit(work.record)

    @cached_property
    def tools(self) -> tuple[RuleSet, Renderer]:
        """Of this process: rules and renderer."""
        return RuleSet(self.rules), Renderer(self.tokenizer, self.template, self.system)

    def __getstate__(self) -> dict[str, Any]:
        """Without what each process makes for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "tools"}


class _ShardRun:
    """The state of one shard's work."""

    def __init__(self, job: SftJob, number: int, writer: PartWriter) -> None:
        self.job, self.shard, self.writer = job, job.shards[number], writer
        self.rules, self.renderer = job.tools
        self.checks_length = TOO_LONG in job.rules.active
        self.record = PartRecord(shard=number)

    def read(self, index: int) -> None:
        """Work on one piece."""
        piece, adapter = self.shard.pieces[index], self.job.fields.adapter
        reader = read_piece(piece, self.job.files, adapter, fields=adapter.keys)
        for outcome in reader:
            if isinstance(outcome, Reject):
                self._reject(index, outcome.record, outcome.reason)
                continue
            try:
                for sample in self.job.fields.samples(outcome.fields):
                    self._take(index, outcome.record, sample)
            except RecordError as error:
                self._reject(index, outcome.record, str(error))
        self.record.read_bytes += piece.num_bytes
        self.record.pieces.append((piece.file, reader.num_records))

    def _take(self, piece: int, number: int, sample: TextSample) -> None:
        if fault := self.rules.fault(sample):
            self._drop(piece, number, sample, *fault)
            return
        prompt, response = self.renderer.encode(sample)
        length = prompt.size + response.size + 1
        if self.checks_length and length > self.job.max_length:
            detail = f"over {self.job.max_length:,} tokens"
            self._drop(piece, number, sample, TOO_LONG, detail)
            return
        place = np.array([piece, number, prompt.size, response.size], np.int32)
        self.writer.add(np.concatenate([prompt, response]), place)
        self.record.documents += 1
        self.record.tokens += length - 1

    def _drop(self, piece: int, number: int, sample: TextSample, rule: str, detail: str) -> None:
        self.record.dropped += 1
        beginnings = {
            "prompt": sample.question[:EXCERPT_CHARACTERS],
            "response": sample.response[:EXCERPT_CHARACTERS],
        }
        self._note(piece, number, rule=rule, detail=detail, **beginnings)

    def _reject(self, piece: int, number: int, reason: str) -> None:
        self.record.rejected += 1
        self._note(piece, number, reason=reason)

    def _note(self, piece: int, number: int, **what: str) -> None:
        self.writer.reject({"piece": piece, "record": number, **what})
