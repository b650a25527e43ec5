"""The interface that the rest of the package knows of a tokenizer.

Text never turns into a special token by accident: the literal ``<|mask|>`` in a source file is
encoded as the characters it consists of, unless the caller asks for ``special="as_token"`` (chat
templates).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from megatron_dream.errors import DataError, TokenizerError
from megatron_dream.tokenizer.special import (
    BEGINOFTEXT,
    DREAM_TOKENS,
    ENDOFTEXT,
    EXPAND,
    IM_END,
    IM_START,
    MASK,
    AddedToken,
)

T = TypeVar("T")
R = TypeVar("R")


class Tokenizer(ABC):
    """Text to ids and back, with Dream's special tokens by name.

    Attributes:
        kind: which library does the work.
        path: where it was loaded from, for messages only.
        added_tokens: all tokens outside the merges, by id.
        vocab_size: highest id + 1, added tokens included.
    """

    kind: ClassVar[Literal["sentencepiece", "huggingface"]]

    def __init__(self, path: str, added_tokens: Sequence[AddedToken], vocab_size: int) -> None:
        self.path = path
        self.added_tokens = {token.id: token for token in added_tokens}
        self.vocab_size = vocab_size
        self._id_of = {token.content: token.id for token in added_tokens}
        absent = [name for name in DREAM_TOKENS if name not in self._id_of]
        if absent:
            raise TokenizerError(f"{path}: {absent[0]} is missing; load it with load_tokenizer.")
        longest_first = sorted(self._id_of, key=lambda name: (-len(name), name))
        self._literal = re.compile("|".join(map(re.escape, longest_first)))

    @property
    def pad_id(self) -> int:
        """``<|endoftext|>``."""
        return self._id_of[ENDOFTEXT]

    eos_id = eod_id = pad_id

    @property
    def bos_id(self) -> int:
        """``<|beginoftext|>``."""
        return self._id_of[BEGINOFTEXT]

    @property
    def mask_id(self) -> int:
        """``<|mask|>``."""
        return self._id_of[MASK]

    @property
    def expand_id(self) -> int:
        """``<|expand|>`` of DreamOn."""
        return self._id_of[EXPAND]

    @property
    def im_start_id(self) -> int:
        """``<|im_start|>``, opens a chat turn."""
        return self._id_of[IM_START]

    @property
    def im_end_id(self) -> int:
        """``<|im_end|>``, closes a chat turn."""
        return self._id_of[IM_END]

    def encode(
        self, text: str, *, special: Literal["as_text", "as_token"] = "as_text"
    ) -> list[int]:
        """Ids of ``text``; nothing is put before or after them.

        Args:
            text: any string of valid Unicode.
            special: what a literal such as ``<|im_start|>`` in ``text`` becomes.

        Raises:
            DataError: the text holds half of a surrogate pair.
        """
        if special == "as_text" or not (found := list(self._literal.finditer(text))):
            return self._checked(self._encode_plain, text)
        ids: list[int] = []
        start = 0
        for match in found:
            ids += self._checked(self._encode_plain, text[start : match.start()])
            ids.append(self._id_of[match.group()])
            start = match.end()
        return ids + self._checked(self._encode_plain, text[start:])

    def literals_in(self, text: str) -> list[str]:
        """Special tokens that ``text`` spells out, longest first where they overlap."""
        return self._literal.findall(text)

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of ``text`` where literals of special tokens become them, as the library itself does."""
        return self.encode(text, special="as_token")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on as many threads as the library takes."""
        return self._checked(self._encode_plain_batch, list(texts))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id is negative or not below ``vocab_size``.
        """
        numbers = [int(number) for number in ids]
        for number in numbers:
            if not 0 <= number < self.vocab_size:
                raise TokenizerError(
                    f"Token id {number} is outside the tokenizer's 0..{self.vocab_size - 1}; decode "
                    "with the tokenizer that the model was trained with."
                )
        if skip_special_tokens:
            added = self.added_tokens
            numbers = [n for n in numbers if not (n in added and added[n].special)]
        return self._decode(numbers)

    @abstractmethod
    def token_text(self, token_id: int) -> str:
        """What one token stands for; ``<0xE2>`` for bytes that are no character of their own."""

    def is_part(self, token_id: int) -> bool:
        """Whether a token's characters may depend on its neighbours, as those of single bytes do."""
        return "<0x" in self.token_text(token_id)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex sha256 of what defines ids: equal for equal tokenizers wherever they lie."""

    @abstractmethod
    def save_huggingface(self, folder: Path | str) -> None:
        """Write the tokenizer files of an exported folder."""

    @abstractmethod
    def _encode_plain(self, text: str) -> list[int]: ...

    @abstractmethod
    def _encode_plain_batch(self, texts: list[str]) -> list[list[int]]: ...

    @abstractmethod
    def _decode(self, ids: list[int]) -> str: ...

    @staticmethod
    def _checked(encode: Callable[[T], R], text: T) -> R:
        try:
            return encode(text)
        except (UnicodeEncodeError, TypeError, RuntimeError) as error:
            # The libraries say it in three ways; what they are given is str or list of str.
            parts = text if isinstance(text, list) else [text]
            if all(isinstance(part, str) and _is_unicode(part) for part in parts):
                raise
            raise DataError(
                "Text to encode holds half of a surrogate pair or is no string; mend or drop the record."
            ) from error


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def bytes_text(raw: bytes) -> str:
    """``raw`` as text where it is UTF-8, else its bytes as ``<0xE2><0x96>``."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in raw)


def check_vocab(
    tokenizer: Tokenizer,
    vocab_size: int,
    mask_token_id: int | None = None,
    fingerprint: str | None = None,
) -> None:
    """Refuse a model and a tokenizer that disagree.

    Args:
        tokenizer: the one at hand.
        vocab_size: rows of the model's embedding table; more rows than tokens is padding.
        mask_token_id: the model's mask id, where it is known.
        fingerprint: of the tokenizer that the model was made with, where it is known.

    Raises:
        TokenizerError: naming both values.
    """
    where = f"Tokenizer {tokenizer.path}"
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            f"{where} has ids up to {tokenizer.vocab_size - 1}, but the model's table has "
            f"{vocab_size} rows; set model.vocab_size to at least {tokenizer.vocab_size} or use the "
            "model's own tokenizer."
        )
    if mask_token_id is not None and mask_token_id != tokenizer.mask_id:
        raise TokenizerError(
            f"{where} has {MASK} at id {tokenizer.mask_id}, but the model's mask_token_id is "
            f"{mask_token_id}; use the model's own tokenizer."
        )
    if fingerprint is not None and fingerprint != tokenizer.fingerprint:
        raise TokenizerError(
            f"{where} has fingerprint {tokenizer.fingerprint[:16]}, but the model was made with "
            f"{fingerprint[:16]}; use the model's own tokenizer."
        )
