"""What a person asks for: a text to go on, a conversation to answer, a gap to fill; and reading them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ConfigError, DataError
from ..tokenizer.base import Tokenizer
from ..tokenizer.chat import Message, check_messages
from .sampler import Sampler

Json = dict[str, Any]
DEFAULT_MARK = "<fill>"


@dataclass(frozen=True)
class Row:
    """A prompt as the sampler takes it.

    Attributes:
        ids: with the masks of a gap, without those that are appended.
        start: where the response begins.
        num_given_masks: masks of the gap; 0: the response is what is appended.
    """

    ids: list[int]
    start: int
    num_given_masks: int = 0


@dataclass(frozen=True)
class Prompt(ABC):
    """One thing asked for.

    Attributes:
        source: the record it came in, repeated in the output.
        where: for errors, such as ``p.jsonl, line 3``.
    """

    field: ClassVar[str] = "completion"  # of the output, for what was made

    source: Json
    where: str

    @abstractmethod
    def encode(self, sampler: Sampler) -> Row:
        """The prompt's tokens."""

    def ends(self, tokenizer: Tokenizer) -> list[int]:
        """Tokens that the response ends before."""
        return [tokenizer.eos_id]

    def whole(self, response: str) -> str:
        """The final text, response and all."""
        return response


@dataclass(frozen=True)
class Completion(Prompt):
    """Text to go on with, after BOS."""

    text: str

    def encode(self, sampler: Sampler) -> Row:
        """See the base class."""
        ids = [sampler.tokenizer.bos_id, *sampler.tokenizer.encode(self.text)]
        return Row(ids, len(ids))

    def whole(self, response: str) -> str:
        """See the base class."""
        return self.text + response


@dataclass(frozen=True)
class Conversation(Prompt):
    """Messages to answer, by the chat template; no BOS but the template's."""

    messages: list[Message]

    def encode(self, sampler: Sampler) -> Row:
        """See the base class."""
        ids = sampler.chat_template.encode(sampler.tokenizer, self.messages)
        return Row(ids, len(ids))

    def ends(self, tokenizer: Tokenizer) -> list[int]:
        """See the base class; models end answers in either way."""
        return [tokenizer.eos_id, tokenizer.im_end_id]


@dataclass(frozen=True)
class Gap(Prompt):
    """BOS, prefix, ``length`` masks, suffix, EOS: what stands between is asked for.

    With a length of 0 it is to be found (growing.py).
    """

    field: ClassVar[str] = "middle"

    prefix: str
    suffix: str
    length: int

    def encode(self, sampler: Sampler) -> Row:
        """See the base class."""
        tokenizer = sampler.tokenizer
        before, after = self.sides(tokenizer)
        masks = [tokenizer.mask_id] * self.length
        return Row([*before, *masks, *after], len(before), self.length)

    def sides(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """The ids before and after the gap."""
        before = [tokenizer.bos_id, *tokenizer.encode(self.prefix)]
        return before, [*tokenizer.encode(self.suffix), tokenizer.eos_id]

    def whole(self, response: str) -> str:
        """See the base class."""
        return self.prefix + response + self.suffix


def read_prompts(
    prompt: str | None, prompt_file: Path | None, jsonl: Path | None, is_chat: bool
) -> list[Prompt]:
    """What ``sample`` was given: one text, a file with one, or a file of JSON lines.

    Args:
        prompt: the text itself.
        prompt_file: its file.
        jsonl: objects with ``prompt`` or ``messages``.
        is_chat: a text is a user's message.

    Raises:
        DataError: a file is missing, or a line is no such object.
    """
    if prompt is not None:
        return [_of_text(prompt, {"prompt": prompt}, "--prompt", is_chat)]
    if prompt_file is not None:
        text = _read_text(prompt_file)
        return [_of_text(text, {"prompt": text}, str(prompt_file), is_chat)]
    if jsonl is None:
        raise ConfigError("no prompt: give --prompt, --prompt-file or --jsonl")
    prompts: list[Prompt] = []
    for where, record in _records(jsonl):
        if "messages" in record:
            messages = check_messages(record["messages"], where)
            prompts.append(Conversation(record, where, list(messages)))
        elif isinstance(record.get("prompt"), str):
            prompts.append(_of_text(record["prompt"], record, where, is_chat))
        else:
            raise DataError(
                f"{where}: no text in the field 'prompt' and no 'messages'; mend the line"
            )
    return prompts


def read_gaps(
    prefix: str | None,
    suffix: str | None,
    file: Path | None,
    mark: str,
    jsonl: Path | None,
    length: int,
) -> list[Gap]:
    """What ``infill`` was given: two texts, a file with a mark, or JSON lines with both texts.

    Raises:
        ConfigError: flags that do not belong together.
        DataError: a file is missing, has no mark or several, or a line has no texts.
    """
    if prefix is not None:
        source = {"prefix": prefix, "suffix": suffix or ""}
        return [Gap(source, "--prefix", prefix, suffix or "", length)]
    if suffix is not None:
        raise ConfigError("--suffix goes with --prefix: give --prefix too, which may be empty")
    if file is not None:
        return [_of_marked(_read_text(file), file, mark, length)]
    if jsonl is None:
        raise ConfigError("nothing to fill: give --prefix and --suffix, --file or --jsonl")
    gaps: list[Gap] = []
    for where, record in _records(jsonl):
        texts = record.get("prefix"), record.get("suffix")
        if not (isinstance(texts[0], str) and isinstance(texts[1], str)):
            raise DataError(f"{where}: no texts in the fields 'prefix' and 'suffix'; mend the line")
        gaps.append(Gap(record, where, texts[0], texts[1], length))
    return gaps


def _of_text(text: str, source: Json, where: str, is_chat: bool) -> Prompt:
    if is_chat:
        return Conversation(source, where, [{"role": "user", "content": text}])
    return Completion(source, where, text)


def _of_marked(text: str, file: Path, mark: str, length: int) -> Gap:
    count = text.count(mark) if mark else 0
    if count != 1:
        raise DataError(
            f"{file}: the mark {mark!r} stands in it {count} times; put it once where text is missing, "
            "or name another with --mark"
        )
    prefix, suffix = text.split(mark)
    return Gap({"prefix": prefix, "suffix": suffix}, str(file), prefix, suffix, length)


def _read_text(path: Path) -> str:
    if not Path(path).is_file():
        raise DataError(f"{path} is no file; check the path")
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no UTF-8; convert the file") from None


def _records(path: Path) -> Iterator[tuple[str, Json]]:
    """The objects of a file of JSON lines, and where each stands."""
    # Not splitlines: a line separator of Unicode may stand inside a JSON string.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: this is no JSON object; mend the line")
        yield f"{path}, line {number}", record
