"""Documents to ids in a worker: exact, checked, without a mask among them.

Every so manieth document is encoded twice, by the fast engine and by the tokenizer itself; a
difference stops the run and names the document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..tokenizer.base import Tokenizer
from ..tokenizer.fast_engine import FastEngine
from .document import Document, document_hash

CHECK_EVERY = 1000


@dataclass
class EncodedDocuments:
    """What became of a list of documents.

    Attributes:
        tokens: all ids one after another, int32 [sum of lengths].
        lengths: ids of each document that has some, EOD included, int32 [documents].
        empty: documents without ids, left out.
        special_tokens: literals in the texts that became ids, by token.
        licences: [documents, tokens] by licence, of documents that carry one.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    empty: int = 0
    special_tokens: Counter[str] = field(default_factory=Counter)
    licences: dict[str, list[int]] = field(default_factory=dict)


class DocumentEncoder:
    """Turns documents into ids.

    Args:
        tokenizer: whose ids.
        engine: of this tokenizer, where it is loaded already.
        append_eod: whether every document ends with ``<|endoftext|>``.
        special_tokens_in_text: ``as_text``: literals of special tokens stay text; ``as_ids``: they
            become the tokens, as Megatron-LM's tool has it.
        check_every: about one document in so many is encoded twice, chosen by its id; 0: none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        engine: FastEngine | None = None,
        append_eod: bool = False,
        special_tokens_in_text: Literal["as_text", "as_ids"] = "as_text",
        check_every: int = CHECK_EVERY,
    ) -> None:
        self.tokenizer, self.check_every = tokenizer, check_every
        self.as_ids = special_tokens_in_text == "as_ids"
        self.engine = engine or FastEngine(tokenizer)
        self._forbidden = [tokenizer.mask_id, tokenizer.expand_id]
        self._end = np.asarray([tokenizer.eod_id] if append_eod else [], dtype=np.int32)

    def encode(self, documents: Sequence[Document]) -> EncodedDocuments:
        """Encode documents in their order.

        Raises:
            DataError: ids hold the mask or expand token, or the two engines differ; names the
                document.
        """
        pieces: list[NDArray[Any]] = []
        lengths: list[int] = []
        result = EncodedDocuments(np.empty(0, np.int32), np.empty(0, np.int32))
        for document in documents:
            ids = self._encode(document, result)
            if ids.size == 0:
                result.empty += 1
                continue
            pieces.append(ids)
            if self._end.size:
                pieces.append(self._end)
            lengths.append(ids.size + self._end.size)
            if "licence" in document.fields:
                count = result.licences.setdefault(licence_of(document), [0, 0])
                count[0] += 1
                count[1] += lengths[-1]
        result.lengths = np.asarray(lengths, dtype=np.int32)
        if pieces:
            result.tokens = np.concatenate(pieces, dtype=np.int32, casting="unsafe")
            self._refuse_masks(result, documents)
        return result

    def _encode(self, document: Document, result: EncodedDocuments) -> NDArray[Any]:
        text = document.text
        if self.as_ids and (literals := self.tokenizer.literals_in(text)):
            result.special_tokens.update(literals)
            return np.asarray(self.tokenizer.encode_with_special(text), dtype=np.int32)
        ids = self.engine.encode(text)
        if self.check_every and document_hash(document.id, "twice") % self.check_every == 0:
            self._compare(document, ids)
        return ids

    def _compare(self, document: Document, ids: NDArray[Any]) -> None:
        exact = self.engine.encode_exactly(document.text)
        if not np.array_equal(ids, exact):
            shared = min(ids.size, exact.size)
            differing = np.flatnonzero(ids[:shared] != exact[:shared])
            first = int(differing[0]) if differing.size else shared
            raise DataError(
                f"{_place(document)}: the fast engine's token {first} differs from the tokenizer's own; "
                f"report the text, and run without gigatoken (pip uninstall gigatoken) until then."
            )

    def _refuse_masks(self, result: EncodedDocuments, documents: Sequence[Document]) -> None:
        for number in self._forbidden:
            if not (result.tokens == number).any():
                continue
            for document in documents:
                if number in self._encode(
                    document, EncodedDocuments(result.tokens, result.lengths)
                ):
                    raise DataError(
                        f"{_place(document)}: the text becomes token {number} "
                        f"({self.tokenizer.token_text(number)}), which only training may write; take the "
                        f"record out, or use special_tokens_in_text: as_text."
                    )


def licence_of(document: Document) -> str:
    """The name to count a document under; several licences of one are named in order."""
    value = document.fields["licence"]
    return " / ".join(sorted(map(str, value))) if isinstance(value, list) else str(value)


def _place(document: Document) -> str:
    return f"{document.file}, record at position {document.position}"
