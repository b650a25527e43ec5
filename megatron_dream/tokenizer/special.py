"""Dream's special tokens: their names, their ids, and how a tokenizer that lacks them gets them.

Two rules, so that ids never depend on who asks:

- Qwen2's vocabulary (``<|endoftext|>`` is 151643): the ids of SPEC 4, which are those of the
  published Dream models (``<|expand|>`` is DreamOn's). Ids between Qwen2's own tokens and Dream's,
  if a folder leaves them free, get the names that Qwen2.5 gives them. Only ``<|expand|>`` gives way:
  DiffuCoder has a token of its own at 151667, and ``<|expand|>`` then follows the highest id.
- Any other vocabulary: a token that is there keeps its id; the missing ones follow the highest id
  in the order of ``DREAM_TOKENS``. For a SentencePiece model of N pieces these are N .. N + 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_dream.errors import TokenizerError

ENDOFTEXT = "<|endoftext|>"  # pad, eos and end of document at once
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
BEGINOFTEXT = "<|beginoftext|>"
MASK = "<|mask|>"
EXPAND = "<|expand|>"

DREAM_TOKENS = (ENDOFTEXT, IM_START, IM_END, BEGINOFTEXT, MASK, EXPAND)
QWEN2_IDS: Mapping[str, int] = {
    ENDOFTEXT: 151643,
    IM_START: 151644,
    IM_END: 151645,
    BEGINOFTEXT: 151665,
    MASK: 151666,
    EXPAND: 151667,
}
# What Qwen2.5 has between <|im_end|> and Dream's tokens.
_QWEN25_FIRST_ID = 151646
_QWEN25_TOKENS = (
    "<|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> <|quad_end|> "
    "<|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> "
    "</tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()


@dataclass(frozen=True)
class AddedToken:
    """A token outside the model's merges, found in text as a literal."""

    id: int
    content: str
    special: bool = True

    def as_json(self) -> dict[str, Any]:
        """The entry in tokenizer.json's ``added_tokens``."""
        return {**self.as_config(), "id": self.id}

    def as_config(self) -> dict[str, Any]:
        """The entry in tokenizer_config.json's ``added_tokens_decoder``."""
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
        return {"content": self.content, **flags, "special": self.special}


def missing_tokens(
    ids: Mapping[str, int], added: Sequence[AddedToken], where: str
) -> list[AddedToken]:
    """The tokens that have to be added so that ``ids`` holds all of Dream's.

    Args:
        ids: every token of the tokenizer with its id, added ones included.
        added: those of them that are added tokens already.
        where: the tokenizer's path, for errors.

    Returns:
        New entries in the order of their ids.

    Raises:
        TokenizerError: one of Qwen2's or Dream's ids belongs to another token.
    """
    known = {token.content for token in added}
    if ids.get(ENDOFTEXT) == QWEN2_IDS[ENDOFTEXT]:
        return _missing_in_qwen2(ids, known, where)
    new, next_id = [], max(ids.values(), default=-1) + 1
    for name in DREAM_TOKENS:
        if name in ids:
            if name not in known:
                new.append(AddedToken(ids[name], name))
            continue
        new.append(AddedToken(next_id, name))
        next_id += 1
    return new


def _missing_in_qwen2(ids: Mapping[str, int], known: set[str], where: str) -> list[AddedToken]:
    wanted = dict(QWEN2_IDS)
    at_id = {number: name for name, number in ids.items()}
    for number, name in enumerate(_QWEN25_TOKENS, start=_QWEN25_FIRST_ID):
        if number not in at_id and name not in ids:
            wanted[name] = number
    if EXPAND not in ids and wanted[EXPAND] in at_id:
        wanted[EXPAND] = max(max(at_id), *wanted.values()) + 1
    for name, number in wanted.items():
        if ids.get(name, number) != number or at_id.get(number, name) != name:
            found = f"{name} has id {ids[name]}" if name in ids else f"it is {at_id[number]!r}"
            raise TokenizerError(
                f"{where}: id {number} must be {name}, but {found}; use a Qwen2 tokenizer whose "
                "ids from 151665 on are free or Dream's."
            )
    return [
        AddedToken(number, name, special=not _is_plain(name))
        for name, number in sorted(wanted.items(), key=lambda item: item[1])
        if name not in known
    ]


def _is_plain(name: str) -> bool:
    """Qwen2.5 marks these as not special: decoding never skips them."""
    return "tool_call" in name or name.startswith(("<|fim_", "<|repo_", "<|file_"))
