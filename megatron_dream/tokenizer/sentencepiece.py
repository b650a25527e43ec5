"""Tokenizers made by SentencePiece, with Dream's tokens right after their vocabulary."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece

from megatron_dream.errors import TokenizerError
from megatron_dream.files import atomic_write
from megatron_dream.tokenizer.base import Tokenizer, bytes_text
from megatron_dream.tokenizer.fast_json import (
    SPACE_SYMBOL,
    fingerprint_json,
    tokenizer_json_from_spm,
)
from megatron_dream.tokenizer.hf_files import write_tokenizer_files
from megatron_dream.tokenizer.special import missing_tokens
from megatron_dream.tokenizer.spm_model import BYTE, SpmModel, parse_model


class SentencePieceTokenizer(Tokenizer):
    """Ids 0 .. N - 1 are the model's pieces, N .. N + 5 Dream's tokens.

    Models that ``train_sentencepiece`` makes give back every text exactly. The library takes U+2581
    in text for a space; such a character is encoded here as its three bytes.
    """

    kind = "sentencepiece"

    def __init__(self, raw: bytes, path: str) -> None:
        """Build from a model file's bytes; ``path`` is for messages."""
        self._model: SpmModel = parse_model(raw, path)
        try:
            self._library = sentencepiece.SentencePieceProcessor(model_proto=raw)
        except (RuntimeError, OSError, ValueError) as error:
            raise TokenizerError(
                f"{path}: SentencePiece cannot load it ({error}); train or copy it again."
            ) from error
        self._num_pieces = len(self._model.pieces)
        ids = {piece.text: number for number, piece in enumerate(self._model.pieces)}
        added = missing_tokens(ids, [], path)
        super().__init__(path, added, max(self._num_pieces, *(token.id + 1 for token in added)))
        self._space_symbol_ids = self._byte_ids(SPACE_SYMBOL) if self._model.keeps_text() else None

    @classmethod
    def from_file(cls, path: Path | str) -> SentencePieceTokenizer:
        """Load a ``.model`` file."""
        try:
            return cls(Path(path).read_bytes(), str(path))
        except OSError as error:
            raise TokenizerError(
                f"{path}: the tokenizer cannot be read ({error.strerror}); check the path."
            ) from error

    @property
    def num_pieces(self) -> int:
        """Size of the SentencePiece vocabulary, without Dream's tokens."""
        return self._num_pieces

    def token_text(self, token_id: int) -> str:
        """See the base class."""
        if token_id in self.added_tokens:
            return self.added_tokens[token_id].content
        piece = self._model.pieces[token_id]
        if piece.type == BYTE:
            return bytes_text(bytes([int(piece.text[3:5], 16)]))
        return piece.text.replace(SPACE_SYMBOL, " ")

    @cached_property
    def fingerprint(self) -> str:
        """See the base class; equal to that of the Hugging Face tokenizer made from it."""
        if self._model.why_not_fast() is None:
            return fingerprint_json(self._tokenizer_json())
        model = self._model
        digest = hashlib.sha256(repr((model, sorted(self._id_of.items()))).encode("utf-8"))
        return digest.hexdigest()

    def save_huggingface(self, folder: Path | str) -> None:
        """See the base class; tokenizer.model, the original, lies beside the other files."""
        reason = self._model.why_not_fast()
        if reason is not None:
            raise TokenizerError(
                f"{self.path}: no Hugging Face tokenizer gives the same ids ({reason}); train one "
                "with `megatron-dream tokenizer train`."
            )
        added = list(self.added_tokens.values())
        write_tokenizer_files(folder, self._tokenizer_json(), added, "PreTrainedTokenizerFast")
        with atomic_write(Path(folder) / "tokenizer.model", "wb") as stream:
            stream.write(self._library.serialized_model_proto())

    def _tokenizer_json(self) -> dict[str, Any]:
        return tokenizer_json_from_spm(self._model, list(self.added_tokens.values()))

    def _byte_ids(self, text: str) -> list[int]:
        of_piece = {p.text: n for n, p in enumerate(self._model.pieces) if p.type == BYTE}
        return [of_piece[f"<0x{byte:02X}>"] for byte in text.encode("utf-8")]

    def _encode_plain(self, text: str) -> list[int]:
        if self._space_symbol_ids is None or SPACE_SYMBOL not in text:
            return self._library.encode(text)
        first, *others = text.split(SPACE_SYMBOL)
        ids = list(self._library.encode(first))
        for part in others:
            ids += self._space_symbol_ids
            ids += self._library.encode(part)
        return ids

    def _encode_plain_batch(self, texts: list[str]) -> list[list[int]]:
        if any(SPACE_SYMBOL in text for text in texts):
            return [self._encode_plain(text) for text in texts]
        return self._library.encode(texts) if texts else []

    def _decode(self, ids: list[int]) -> str:
        parts: list[str] = []
        run: list[int] = []
        for number in ids:
            if number < self._num_pieces and number not in self.added_tokens:
                run.append(number)
                continue
            parts += [self._library.decode(run), self.added_tokens[number].content]
            run = []
        return "".join([*parts, self._library.decode(run)])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the model's bytes, for worker processes."""
        return type(self), (self._library.serialized_model_proto(), self.path)
