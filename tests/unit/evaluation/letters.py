"""A tokenizer of letters for the tiny model of tests/unit/sampling."""

from __future__ import annotations

import re

from tests.unit.sampling.plain_definition import BOS, MASK, NUM_TOKENS, PAD


class LetterTokenizer:
    """Token k is the k-th letter; s and t open and close a turn where a template writes them."""

    bos_id, mask_id, pad_id, eos_id, vocab_size = BOS, MASK, PAD, PAD, NUM_TOKENS
    im_start_id, im_end_id, expand_id = 18, 19, 17
    path = "nowhere/letters.model"
    _marks = {"<|im_start|>": 18, "<|im_end|>": 19}

    def __init__(self) -> None:
        special = {BOS: "<bos>", PAD: "<pad>", MASK: "<mask>"}
        self.added_tokens = {number: _Added(text) for number, text in special.items()}

    def encode(self, text: str, special: str = "as_text") -> list[int]:
        if special == "as_token":
            return [self._marks[text]]
        return [ord(letter) - ord("a") for letter in text if "a" <= letter <= "p"]

    def literals_in(self, text: str) -> list[str]:
        return re.findall("|".join(map(re.escape, self._marks)), text)

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(map(self.token_text, ids))

    def token_text(self, token: int) -> str:
        return chr(ord("a") + token)


class _Added:
    def __init__(self, content: str) -> None:
        self.content = content
