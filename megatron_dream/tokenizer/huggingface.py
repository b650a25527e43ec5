"""Tokenizers of the Hugging Face kind: a folder with tokenizer.json, read by `tokenizers`.

transformers is not imported: it takes seconds and does nothing here that tokenizer.json does not
say.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import tokenizers

from megatron_dream.errors import TokenizerError
from megatron_dream.tokenizer.base import Tokenizer, bytes_text
from megatron_dream.tokenizer.fast_json import fingerprint_json
from megatron_dream.tokenizer.hf_files import write_tokenizer_files
from megatron_dream.tokenizer.special import AddedToken, missing_tokens

# Above, texts are encoded without offsets, which take half of the 140 bytes a character.
_LONG = 1 << 16


class HuggingFaceTokenizer(Tokenizer):
    """A fast tokenizer; Dream's tokens are added where they are missing."""

    kind = "huggingface"

    def __init__(self, tokenizer_json: dict[str, Any], path: str) -> None:
        """Build from the parsed tokenizer.json; ``path`` is for messages."""
        added, vocab = _read_tokens(tokenizer_json, path)
        ids = {**vocab, **{token.content: token.id for token in added}}
        added = sorted([*added, *missing_tokens(ids, added, path)], key=lambda token: token.id)
        self._json = {**tokenizer_json, "added_tokens": _entries(tokenizer_json, added)}
        _check_added(vocab, added, path)
        super().__init__(path, added, max(*ids.values(), *(token.id for token in added)) + 1)

    @classmethod
    def from_folder(cls, folder: Path | str) -> HuggingFaceTokenizer:
        """Load ``folder``/tokenizer.json."""
        path = Path(folder) / "tokenizer.json"
        try:
            content = orjson.loads(path.read_bytes())
        except OSError as error:
            raise TokenizerError(
                f"{path}: the tokenizer cannot be read ({error.strerror}); check the path."
            ) from error
        except ValueError as error:
            raise TokenizerError(
                f"{path}: this is not valid JSON ({error}); copy it again."
            ) from error
        return cls(content, str(path))

    def encode_with_special(self, text: str) -> list[int]:
        """See the base class; added tokens' own flags (lstrip, normalized, ...) count here."""
        return self._checked(
            lambda t: self._library_as_ids.encode(t, add_special_tokens=False).ids, text
        )

    @cached_property
    def _library_as_ids(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(
            json.dumps({**self._json, "truncation": None, "padding": None})
        )

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        """Made when first needed: it takes half a second, and many processes only ask for ids."""
        library = _build(self._json, self.path)
        for token in self.added_tokens.values():
            if library.token_to_id(token.content) != token.id:
                raise _gap(token, self.path)
        return library

    def warm_up(self) -> None:
        """Make the library's tokenizer now rather than at the first text."""
        _ = self._library

    @property
    def json(self) -> dict[str, Any]:
        """tokenizer.json's content, Dream's tokens among its added ones."""
        return self._json

    def token_text(self, token_id: int) -> str:
        """See the base class."""
        if token_id in self.added_tokens:
            return self.added_tokens[token_id].content
        token = self._library.id_to_token(token_id)
        if token is None:
            return ""
        if self._is_byte_level:
            return bytes_text(bytes(_BYTE_OF[character] for character in token))
        if _is_fallback(token):
            return bytes_text(bytes([int(token[3:5], 16)]))
        return self._decode([token_id])

    def is_part(self, token_id: int) -> bool:
        """See the base class; a run of fallback bytes is decoded whole or not at all, ASCII too."""
        if token_id in self.added_tokens:
            return False
        is_fallback = not self._is_byte_level and _is_fallback(self._library.id_to_token(token_id))
        return is_fallback or super().is_part(token_id)

    @cached_property
    def fingerprint(self) -> str:
        """See the base class."""
        return fingerprint_json(self._json)

    def save_huggingface(self, folder: Path | str) -> None:
        """See the base class."""
        if self._json["model"].get("type", "BPE") != "BPE":
            raise TokenizerError(
                f"{self.path}: only BPE tokenizers can be exported; use Qwen2's or a SentencePiece "
                "BPE model."
            )
        name = "Qwen2Tokenizer" if self._is_qwen2 else "PreTrainedTokenizerFast"
        write_tokenizer_files(folder, self._json, list(self.added_tokens.values()), name)

    @cached_property
    def _is_byte_level(self) -> bool:
        return (self._json.get("decoder") or {}).get("type") == "ByteLevel"

    @cached_property
    def _is_qwen2(self) -> bool:
        """Whether transformers' Qwen2Tokenizer, which builds its own pipeline, gives the same ids."""
        normal = (self._json.get("normalizer") or {}).get("type") == "NFC"
        return (
            normal
            and self._is_byte_level
            and QWEN2_SPLIT in json.dumps(self._json["pre_tokenizer"])
        )

    @cached_property
    def cuts_at_lines(self) -> bool:
        """Whether texts cut after a line's end and before an ASCII letter give the same ids in parts.

        True of Qwen2's own split alone: no piece of it goes over such a place, whatever lies around.
        """
        steps = (self._json.get("pre_tokenizer") or {}).get("pretokenizers") or []
        return (
            self._is_qwen2
            and [step.get("type") for step in steps] == ["Split", "ByteLevel"]
            and steps[0].get("behavior") == "Isolated"
            and not steps[1].get("add_prefix_space")
            and not steps[1].get("use_regex")
            and not self._json["model"].get("dropout")
        )

    def _encode_plain(self, text: str) -> list[int]:
        if len(text) > _LONG:
            return self._encode_plain_batch([text])[0]
        return self._library.encode(text, add_special_tokens=False).ids

    def _encode_plain_batch(self, texts: list[str]) -> list[list[int]]:
        found = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def _decode(self, ids: list[int]) -> str:
        return self._library.decode(ids, skip_special_tokens=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as tokenizer.json's content, for worker processes."""
        return type(self), (self._json, self.path)


def _is_fallback(token: str | None) -> bool:
    """Whether a token is one byte of what the vocabulary has no piece for."""
    return token is not None and len(token) == 6 and token[:3] == "<0x" and token[5] == ">"


def _read_tokens(tokenizer_json: Any, path: str) -> tuple[list[AddedToken], dict[str, int]]:
    """Added tokens and vocabulary, checked for what the rest relies on."""
    try:
        added = [
            AddedToken(int(token["id"]), str(token["content"]), bool(token.get("special", False)))
            for token in tokenizer_json.get("added_tokens") or []
        ]
        vocab = tokenizer_json["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: [piece, score] by id
            vocab = {piece: number for number, (piece, _) in enumerate(vocab)}
        numbers = [*vocab.values(), *(token.id for token in added)]
        if not numbers or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("no tokens, or an id that is no number")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(
            f"{path}: model.vocab or added_tokens is missing or malformed ({error!r}); copy it again."
        ) from error
    return added, dict(vocab)


def _check_added(vocab: dict[str, int], added: list[AddedToken], path: str) -> None:
    """Refuse gaps: `tokenizers` gives an added token the next free id, which would shift the others."""
    following = len(vocab)
    for token in added:
        if token.content in vocab:
            continue
        if token.id != following:
            raise _gap(token, path)
        following += 1


def _gap(token: AddedToken, path: str) -> TokenizerError:
    return TokenizerError(
        f"{path}: {token.content} cannot have id {token.id}, because ids before it are not used; "
        "restore the tokenizer's original added tokens."
    )


def _entries(tokenizer_json: dict[str, Any], added: list[AddedToken]) -> list[dict[str, Any]]:
    """tokenizer.json's added tokens: those that were there as they were, and the new ones."""
    old = {entry["content"]: entry for entry in tokenizer_json.get("added_tokens") or []}
    return [old.get(token.content, token.as_json()) for token in added]


def _build(tokenizer_json: dict[str, Any], path: str) -> tokenizers.Tokenizer:
    """The library's tokenizer, which takes every added token in text for plain text.

    ``encode_special_tokens`` leaves literals alone only where they are marked special; Qwen2.5's
    ``<|fim_prefix|>`` is not, and source code that mentions it must not turn into it.
    """
    special = [{**entry, "special": True} for entry in tokenizer_json["added_tokens"]]
    content = {**tokenizer_json, "added_tokens": special, "truncation": None, "padding": None}
    try:
        library = tokenizers.Tokenizer.from_str(orjson.dumps(content).decode())
    except Exception as error:  # the library raises nothing more precise
        raise TokenizerError(
            f"{path}: the tokenizers library cannot load it ({error}); copy it again."
        ) from error
    library.encode_special_tokens = True
    return library


def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return {**table, **{chr(256 + number): byte for number, byte in enumerate(others)}}


_BYTE_OF = _byte_alphabet()
# A part of Qwen2's split that no other published pattern has in this form, as JSON spells it.
QWEN2_SPLIT = r"|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
