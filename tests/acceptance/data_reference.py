"""The reference of data_bytes.py: megatron-core's builder, fed with what `tokenizers` itself says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from data_corpora import Corpus, Record

from megatron_dream.device import import_megatron
from megatron_dream.tokenizer.load import load_tokenizer
from megatron_dream.tokenizer.special import ENDOFTEXT, EXPAND, MASK

_BATCH_BYTES = 1 << 22
_SMALL_VOCABULARY = 65500


@dataclass(frozen=True)
class Libraries:
    """One tokenizer as the Hugging Face library has it.

    Attributes:
        name: for the printed lines.
        path: what the command is given.
        content: tokenizer.json with Dream's tokens among the added ones.
    """

    name: str
    path: Path
    content: dict[str, Any]

    def exact_library(self, as_ids: bool) -> tokenizers.Tokenizer:
        """The library's tokenizer; unless ``as_ids`` every literal of an added token is plain text."""
        added = [{**token, "special": True} for token in self.content["added_tokens"]]
        content = self.content if as_ids else {**self.content, "added_tokens": added}
        library = tokenizers.Tokenizer.from_str(json.dumps(content))
        library.encode_special_tokens = not as_ids
        return library


def libraries(name: str, path: Path, folder: Path) -> Libraries:
    """Prepare one: what the package exports, or the folder's own file with the exported added tokens."""
    load_tokenizer(path).save_huggingface(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if path.is_dir():
        own = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        content = {**own, "added_tokens": content["added_tokens"]}
    return Libraries(name, path, content)


@dataclass
class Reference:
    """What the builder wrote, and what was not given to it.

    Attributes:
        prefix: of its two files.
        dtype: of the ids.
        documents: written.
        tokens: written, EOD included.
        empty: texts without ids.
        rejects: (file, line) of the records that are no documents.
    """

    prefix: Path
    dtype: type[np.generic]
    documents: int = 0
    tokens: int = 0
    empty: int = 0
    rejects: list[tuple[str, int]] = field(default_factory=list)


def indexed_dataset() -> Any:
    """megatron-core's module, on a machine with or without CUDA."""
    import_megatron()
    from megatron.core.datasets import indexed_dataset as module

    return module


def build_reference(corpus: Corpus, made: Libraries, as_ids: bool, prefix: Path) -> Reference:
    """Feed the builder document by document, each ended by EOD."""
    library = made.exact_library(as_ids)
    end, never = library.token_to_id(ENDOFTEXT), {library.token_to_id(n) for n in (MASK, EXPAND)}
    small = library.get_vocab_size(with_added_tokens=True) < _SMALL_VOCABULARY
    reference = Reference(prefix, np.uint16 if small else np.int32)
    builder = indexed_dataset().IndexedDatasetBuilder(f"{prefix}.bin", dtype=reference.dtype)
    for texts in _batches(corpus.read(), reference):
        # The same ids as one by one, on all cores; the library's own guarantee.
        for encoding in library.encode_batch_fast(texts, add_special_tokens=False):
            ids = encoding.ids
            if not ids:
                reference.empty += 1
                continue
            if never.intersection(ids):
                raise SystemExit(f"{corpus.name}: a text has the mask or expand token as id")
            builder.add_document([*ids, end], [len(ids) + 1])
            reference.documents += 1
            reference.tokens += len(ids) + 1
    builder.finalize(f"{prefix}.idx")
    return reference


def merged_by_megatron(prefixes: Sequence[Path], dtype: type[np.generic], output: Path) -> None:
    """Put several pairs of files together as Megatron-LM's merging tool does."""
    builder = indexed_dataset().IndexedDatasetBuilder(f"{output}.bin", dtype=dtype)
    for prefix in prefixes:
        builder.add_index(str(prefix))
    builder.finalize(f"{output}.idx")


def first_difference(expected: Path, found: Path, dtype: type[np.generic]) -> str:
    """Where the ids of two pairs of files part, in words."""
    first, second = (np.fromfile(f"{prefix}.bin", dtype=dtype) for prefix in (expected, found))
    shared = min(first.size, second.size)
    apart = np.flatnonzero(first[:shared] != second[:shared])
    if not apart.size and first.size == second.size:
        return "the same ids, other lengths or offsets in .idx"
    place = int(apart[0]) if apart.size else shared
    dataset = indexed_dataset().IndexedDataset(str(expected))  # its lengths live as long as it does
    ends = np.cumsum(dataset.sequence_lengths, dtype=np.int64)
    document = int(np.searchsorted(ends, place, side="right"))
    start = int(ends[document - 1]) if document else 0
    here = slice(place, place + 3)
    return (
        f"token {place:,} is {first[here].tolist()}, found {second[here].tolist()}: "
        f"document {document:,} (of those written, from 0), its token {place - start:,}"
    )


def _batches(records: Iterator[Record], reference: Reference) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for record in records:
        if record.text is None:
            reference.rejects.append((record.file, record.line))
            continue
        texts.append(record.text)
        size += len(record.text)
        if size >= _BATCH_BYTES:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts
