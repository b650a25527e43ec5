"""A tokenizer whose ids depend on where a text is cut: bytes, and some pairs of characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

PAIRS = ("aa", "ab", "\n ", "  ", "b\n")
EOS, BOS, MASK, EXPAND = range(256 + len(PAIRS), 256 + len(PAIRS) + 4)
_TOKEN = re.compile("|".join([*PAIRS, "."]), re.DOTALL)
_IDS = {pair: [256 + number] for number, pair in enumerate(PAIRS)}


class PairTokenizer:
    """Takes pairs from left to right, so that "aab" is "aa", "b" and its parts "a", "ab" are not."""

    path, fingerprint, vocab_size = "nowhere/pairs.model", "cd" * 32, EXPAND + 1
    pad_id = eos_id = eod_id = EOS
    bos_id, mask_id, expand_id = BOS, MASK, EXPAND

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for token in _TOKEN.findall(text):
            ids += _IDS.get(token) or token.encode("utf-8")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        parts = [PAIRS[n - 256].encode() if n >= 256 else bytes([n]) for n in ids]
        return b"".join(parts).decode("utf-8")
