"""What one run of preprocessing is of: everything that decides the bytes, and nothing else.

Two runs with equal jobs write equal files, whatever their workers, ranks and interruptions. The
job's identity lies in ``P.parts/manifest.json``; a run that finds another one there refuses to go
on and names what changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import DataError
from ...files import write_json
from ...tokenizer.base import Tokenizer
from ..filters import FilterSpec
from ..readers import Adapter, InputFile, Limits, Shard

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SpecialTokens = Literal["as_text", "as_ids"]
_SMALL_VOCABULARY = 65500  # megatron-core stores ids below it in uint16


@dataclass(frozen=True)
class Job:
    """One source to one prefix.

    Attributes:
        prefix: of the output.
        files: inputs in their order.
        shards: units of work, planned from the inputs alone.
        tokenizer_path: where workers load it from.
        tokenizer: its fingerprint, vocabulary and special ids.
        source: name in the recipe, or empty.
        adapter: where the text of a record is.
        limits: of what is read.
        filters: specifications, in order.
        append_eod: whether every document ends with ``<|endoftext|>``.
        special_tokens_in_text: what a literal such as ``<|im_start|>`` in a text becomes.
        max_file_bytes: of one ``.bin``.
        max_reject_share: of records; more is an error.
    """

    prefix: Path
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    tokenizer_path: str
    tokenizer: TokenizerIdentity
    adapter: Adapter
    limits: Limits
    source: str = ""
    filters: tuple[FilterSpec, ...] = ()
    append_eod: bool = False
    special_tokens_in_text: SpecialTokens = "as_text"
    max_file_bytes: int = 64 * 10**9
    max_reject_share: float = 0.01

    @property
    def parts(self) -> Path:
        """Folder of the part files."""
        return self.prefix.with_name(f"{self.prefix.name}.parts")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ids on disk: uint16 below 65,500 tokens, else int32."""
        return np.dtype(np.uint16 if small_vocabulary(self.tokenizer.vocab_size) else np.int32)

    @property
    def input_bytes(self) -> int:
        """Bytes on disk of all inputs."""
        return sum(file.size for file in self.files)

    def identity(self) -> dict[str, Any]:
        """What decides the bytes, as plain values."""
        return {
            "version": FORMAT_VERSION,
            "inputs": [file.identity() for file in self.files],
            "shards": len(self.shards),
            "tokenizer": self.tokenizer.fingerprint,
            "dtype": self.dtype.name,
            "source": self.source,
            "adapter": self.adapter.identity(),
            "limits": self.limits.identity(),
            "filters": [spec.identity() for spec in self.filters],
            "append_eod": self.append_eod,
            "special_tokens_in_text": self.special_tokens_in_text,
            "max_file_bytes": self.max_file_bytes,
        }


@dataclass(frozen=True)
class TokenizerIdentity:
    """What outputs say of the tokenizer that made them."""

    fingerprint: str
    vocab_size: int
    eod_id: int
    mask_id: int
    names: Mapping[int, str] = field(default_factory=dict)  # special tokens by id

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenizerIdentity:
        """Read off a loaded tokenizer."""
        return cls(
            tokenizer.fingerprint,
            tokenizer.vocab_size,
            tokenizer.eod_id,
            tokenizer.mask_id,
            {number: token.content for number, token in tokenizer.added_tokens.items()},
        )


def small_vocabulary(vocab_size: int) -> bool:
    """Whether ids take two bytes each, else four."""
    return vocab_size < _SMALL_VOCABULARY


def open_manifest(job: Job) -> None:
    """Begin ``P.parts`` or make sure that what lies there is this job's.

    Raises:
        DataError: it is of another job; names the first difference.
    """
    path = job.parts / MANIFEST
    identity = json.loads(json.dumps(job.identity()))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if difference := first_difference(found, identity):
            raise DataError(
                f"{job.parts} was begun with {difference}; restore that to go on, or give "
                f"--overwrite to begin anew."
            )
        return
    job.parts.mkdir(parents=True, exist_ok=True)
    write_json(path, identity)


def first_difference(found: dict[str, Any], here: dict[str, Any]) -> str | None:
    """What the first differing field was and is, in words; None where all are equal."""
    for name, value in here.items():
        other = found.get(name)
        if other == value:
            continue
        if name == "inputs" and isinstance(other, list):
            return _input_difference(other, value)
        return f"{name} {_short(other)}, now it is {_short(value)}"
    return None


def _input_difference(found: list[Any], here: list[Any]) -> str:
    for old, new in zip(found, here, strict=False):
        if old != new:
            return f"the input {_short(old)}, now it is {_short(new)}"
    return f"{len(found)} inputs, now there are {len(here)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
