"""Conversations as tokens, by the tokenizer's own chat template.

Differs from transformers' ``apply_chat_template``: only the template writes control tokens. A literal
such as ``<|im_end|>`` in somebody's message is encoded as the characters it consists of, so nobody can
end a turn or speak as another role. For messages without such literals the ids are the same.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from megatron_dream.errors import DataError, TokenizerError
from megatron_dream.tokenizer.base import Tokenizer
from megatron_dream.tokenizer.hf_files import CHAT_TEMPLATE

ROLES = ("system", "user", "assistant")
Message = Mapping[str, str]


def check_messages(value: object, where: str) -> list[dict[str, str]]:
    """``value`` as messages, each an object with a text as ``role`` and ``content``.

    Args:
        value: from a request or a file.
        where: for the error, such as ``p.jsonl, line 3``.

    Raises:
        DataError: it is no list, or an entry is no message.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: messages is no list of messages; give one or more")
    for number, message in enumerate(value, start=1):
        is_message = isinstance(message, dict) and isinstance(message.get("content"), str)
        if not is_message or message.get("role") not in ROLES:
            raise DataError(
                f"{where}: message {number} is no object with role ({', '.join(ROLES)}) and a text "
                "as content; mend it"
            )
    return [{"role": entry["role"], "content": entry["content"]} for entry in value]


class ChatTemplate:
    """A Jinja template, run in a sandbox."""

    def __init__(self, source: str, path: str) -> None:
        """Parse ``source``; ``path`` is for messages."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _to_json
        self.path = path
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise TokenizerError(
                f"{path}: the chat template is no Jinja ({error}); mend it"
            ) from None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The one that lies beside the tokenizer, or Dream's where there is none."""
        folder = Path(tokenizer.path).parent
        source = _read_template(folder)
        return cls(source, str(folder)) if source else cls.dream()

    @classmethod
    def dream(cls) -> ChatTemplate:
        """Dream's, which the sft stage renders prompts with and every exported folder carries."""
        return cls(CHAT_TEMPLATE, "Dream's chat template")

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Ids of a conversation, nothing before or after what the template says.

        Args:
            tokenizer: whose literals are control tokens.
            messages: each with ``role`` and ``content``.
            add_generation_prompt: end with the beginning of the assistant's turn.

        Raises:
            DataError: the template refuses the conversation.
        """
        # Literals in messages are set aside under names that nobody can guess, and come back as text.
        aside = _Aside(tokenizer)
        shielded = [{name: aside.shield(text) for name, text in m.items()} for m in messages]
        try:
            text = self._template.render(
                messages=shielded,
                add_generation_prompt=add_generation_prompt,
                bos_token=tokenizer.added_tokens[tokenizer.bos_id].content,
                eos_token=tokenizer.added_tokens[tokenizer.eos_id].content,
                pad_token=tokenizer.added_tokens[tokenizer.pad_id].content,
            )
        except (TemplateError, TypeError) as error:
            raise DataError(
                f"{self.path}: the chat template refuses the messages ({error}); give what it asks for"
            ) from None
        return aside.encode(text)


class _Aside:
    """Control literals of messages, taken out before the template and put back as text after it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(16)
        self._literals: list[str] = []

    def shield(self, text: str) -> str:
        """``text`` with a name in place of each literal."""
        for literal in sorted(set(self._tokenizer.literals_in(text)), key=len, reverse=True):
            text = text.replace(literal, f"[{self._nonce}:{len(self._literals)}]")
            self._literals.append(literal)
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered template: its literals are tokens, the messages' are text."""
        literals = set(self._tokenizer.literals_in(text))
        pattern = "|".join(map(re.escape, sorted(literals, key=len, reverse=True)))
        pieces = re.split(f"({pattern})", text) if pattern else [text]
        ids: list[int] = []
        for piece in filter(None, pieces):
            if piece in literals:
                ids += self._tokenizer.encode(piece, special="as_token")
            else:
                ids += self._tokenizer.encode(self._restore(piece))
        return ids

    def _restore(self, text: str) -> str:
        if not self._literals:  # nearly always
            return text
        name = rf"\[{self._nonce}:(\d+)\]"
        return re.sub(name, lambda match: self._literals[int(match[1])], text)


def _read_template(folder: Path) -> str | None:
    """As transformers finds it: a file of its own, or a field of tokenizer_config.json."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if not config.is_file():
        return None
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(
            f"{config}: this is not valid JSON ({error}); copy it again."
        ) from None
    found = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(found, list):  # several by name
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) else None


def _refuse(sentence: str) -> str:
    raise TemplateError(sentence)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
