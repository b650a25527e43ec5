"""Text of requests as ids: what a person writes is text, only the chat template writes control tokens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from ..tokenizer.base import Tokenizer
from ..tokenizer.chat import ChatTemplate, Message


class Prompts:
    """The tokenizer's side of requests; may be asked by several threads.

    Args:
        tokenizer: the model's.
        template: renders chats; None: the one that lies beside the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template or ChatTemplate.of(tokenizer)
        self._lock = threading.Lock()  # tokenizers remember what they have checked

    def text(self, text: str) -> list[int]:
        """A completion's prompt: BOS and the text.

        Raises:
            DataError: it is no Unicode.
        """
        with self._lock:
            return [self._tokenizer.bos_id, *self._tokenizer.encode(text)]

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """A conversation, up to the beginning of the assistant's turn.

        Raises:
            DataError: the template refuses it.
        """
        with self._lock:
            try:
                return self._template.encode(self._tokenizer, messages)
            except DataError as error:
                # Where the template lies is nothing for clients.
                raise DataError(str(error).removeprefix(f"{self._template.path}: ")) from None

    def token_ids(self, is_chat: bool) -> dict[str, Any]:
        """The tokenizer's fields of ``SamplingConfig``; a turn ends a chat's answer."""
        tokenizer = self._tokenizer
        ends = (tokenizer.eos_id, tokenizer.im_end_id) if is_chat else (tokenizer.eos_id,)
        return {
            "mask_token_id": tokenizer.mask_id,
            "pad_token_id": tokenizer.pad_id,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": ends,
            "num_tokens": tokenizer.vocab_size,
        }
