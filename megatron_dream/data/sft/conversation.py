"""From a record to samples: one prompt and one answer each, still as text.

First step of SFT data, behind the readers. A record has a prompt (a string, or chat messages) and a
response, or one conversation. What is not of that form raises ``RecordError``; the caller names file
and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from ...errors import DataError
from ...tokenizer.chat import check_messages
from ..readers.adapter import Adapter, kind_of
from ..readers.paths import FieldPath, RecordError

Turns = Literal["last", "each"]
Prompt = str | list[dict[str, str]]
# Ling-Coder-SFT writes HUMAN and ASSISTANT; roles are read in any case.
_ROLES: Mapping[str, str] = MappingProxyType({"human": "user"})


@dataclass(frozen=True, slots=True)
class TextSample:
    """A prompt and the answer that is learnt.

    Attributes:
        prompt: plain text, or the messages before the answer.
        response: text of the answer, without an end token.
    """

    prompt: Prompt
    response: str

    @property
    def prompt_text(self) -> str:
        """Contents of all messages, one under the other."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(message["content"] for message in self.prompt)

    @property
    def question(self) -> str:
        """What the answer answers: the last message that is not the system's."""
        if isinstance(self.prompt, str):
            return self.prompt
        asked = [m["content"] for m in self.prompt if m["role"] != "system"]
        return asked[-1] if asked else ""


@dataclass(frozen=True)
class RecordAdapter(Adapter):
    """Lets whole fields through the readers, whatever their type; a record has to have them all.

    Attributes:
        keys: names of the fields, dotted names reach into fields.
    """

    keys: tuple[str, ...] = ("prompt", "response")

    @cached_property
    def needed(self) -> tuple[FieldPath, ...]:
        """The fields that a record has to have."""
        return tuple(FieldPath(key) for key in self.keys)

    def resolved(self, asked: Sequence[str]) -> dict[str, FieldPath]:
        """Every name is the record's own."""
        return {name: FieldPath(name) for name in asked}

    def text_getter(self) -> Callable[[Any], Any]:
        """See ``text_of``."""
        return self.text_of

    def text_of(self, record: Mapping[str, Any]) -> str:
        """Nothing: the fields travel beside the text.

        Raises:
            MissingFieldError: the record lacks one of the fields.
        """
        for path in self.needed:
            path.value(record)
        return ""

    def identity(self) -> dict[str, Any]:
        """Plain values that decide what is read."""
        return {"keys": list(self.keys)}


@dataclass(frozen=True)
class SampleFields:
    """Where prompt and response are.

    Attributes:
        prompt: field of the prompt; not looked at where ``messages`` is given.
        response: field of the response; the same.
        messages: field of a whole conversation.
        turns: of a conversation: learn the ``last`` turn, or make a sample of ``each`` turn of the
            assistant, cut after it.
    """

    prompt: str = "prompt"
    response: str = "response"
    messages: str | None = None
    turns: Turns = "last"

    @property
    def adapter(self) -> RecordAdapter:
        """What the readers need."""
        keys = (self.prompt, self.response) if self.messages is None else (self.messages,)
        return RecordAdapter(text=keys[0], keys=keys)

    def samples(self, record: Mapping[str, Any]) -> list[TextSample]:
        """Samples of the fields of one record, in the order of their turns.

        Raises:
            RecordError: the fields are not what they should be; says how.
        """
        if self.messages is not None:
            return self._of_conversation(_messages(record, self.messages))
        response = record.get(self.response)
        if not isinstance(response, str):
            raise _wrong_type(self.response, response, "a string")
        return [TextSample(self._prompt(record), response)]

    def _prompt(self, record: Mapping[str, Any]) -> Prompt:
        value = record.get(self.prompt)
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise _wrong_type(self.prompt, value, "a string or a list of messages")
        messages = _messages(record, self.prompt)
        if messages[-1]["role"] == "assistant":
            raise RecordError(f"field {self.prompt!r}: the last message is the assistant's own")
        return messages

    def _of_conversation(self, messages: list[dict[str, str]]) -> list[TextSample]:
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise RecordError(f"field {self.messages!r}: no turn is the assistant's")
        if self.turns == "last":
            if answers[-1] != len(messages) - 1:
                raise RecordError(f"field {self.messages!r}: the last turn is not the assistant's")
            answers = answers[-1:]
        return [TextSample(messages[:n], messages[n]["content"]) for n in answers]


def _messages(record: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    value = record.get(name)
    if not isinstance(value, list):
        raise _wrong_type(name, value, "a list of messages")
    try:
        return check_messages([_with_plain_role(entry) for entry in value], f"field {name!r}")
    except DataError as error:
        raise RecordError(str(error).partition(";")[0]) from None


def _with_plain_role(message: object) -> object:
    if isinstance(message, dict) and isinstance(message.get("role"), str):
        role = message["role"].lower()
        return {**message, "role": _ROLES.get(role, role)}
    return message


def _wrong_type(name: str, value: object, wanted: str) -> RecordError:
    if isinstance(value, RecordError):  # what a table holds in place of bytes that are no text
        return RecordError(f"field {name!r} {value}")
    return RecordError(f"field {name!r} is {kind_of(value)}, not {wanted}")
