"""Prompts and answers as ids: Dream's chat template, or plain text behind BOS (SPEC 5).

Control tokens in anybody's text stay the characters that they are of; only the template writes tokens.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...tokenizer.base import Tokenizer
from ...tokenizer.chat import ChatTemplate
from ..readers.paths import RecordError
from .conversation import Prompt, TextSample

Template = Literal["chat", "none"]


class Renderer:
    """Turns text samples into ids.

    Dream's own template is taken, whatever lies beside the tokenizer: it is the one that an exported
    folder carries.

    Args:
        tokenizer: whose ids.
        template: ``chat``: Dream's template, its system text and the beginning of the assistant's turn;
            ``none``: BOS and the prompt's text.
        system: the system's text for prompts that have none; None: the template's own.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, system: str | None = None) -> None:
        self._tokenizer, self._system = tokenizer, system
        self._chat = ChatTemplate.dream() if template == "chat" else None

    def encode(self, sample: TextSample) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids of prompt and response, int32 [prompt tokens] and [response tokens]; no end token.

        Raises:
            RecordError: the prompt is a list of messages and there is no template.
        """
        response = self._tokenizer.encode(sample.response)
        return np.array(self._prompt(sample.prompt), np.int32), np.array(response, np.int32)

    def _prompt(self, prompt: Prompt) -> list[int]:
        tokenizer = self._tokenizer
        if self._chat is None:
            if not isinstance(prompt, str):
                raise RecordError("the prompt is a list of messages, which needs --template chat")
            return [tokenizer.bos_id, *tokenizer.encode(prompt)]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if self._system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system}, *messages]
        return self._chat.encode(tokenizer, messages, add_generation_prompt=True)
