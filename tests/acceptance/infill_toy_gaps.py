"""The gaps of ``infill_toy.py``: an alphabet, what is drawn from it, and which of it training never sees."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.data.infilling.splitting import Split  # noqa: E402
from megatron_dream.data.infilling.stream import InfillStream  # noqa: E402
from megatron_dream.data.stream import Row  # noqa: E402
from megatron_dream.tokenizer.base import Tokenizer  # noqa: E402
from megatron_dream.tokenizer.train import train_sentencepiece  # noqa: E402

LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ALPHABET = LATIN + "".join(map(chr, range(0x431, 0x431 + 44)))  # and Cyrillic
BYTE_PIECES = 256 + 3  # bytes, unknown, line feed, tab
LONGEST, MOST_CONTEXT = 64, 95
UNSEEN = (3, 9, 17, 26, 27, 38, 44, 45, 46, 47, 48, 49)
HELD_OUT = 8  # of so many pairs (last, first) of a length one is never trained on
WIDTH = 2 + len(ALPHABET) + 63  # room for every EOS that corruption may append


def is_held_out(last: int, length: int) -> bool:
    """Whether the gap of ``length`` behind character ``last`` is for the measurement alone."""
    return (last * 5 + length) % HELD_OUT == 0


def gap_of(last: int, length: int, before: int, after: int) -> Split:
    """The gap behind character ``last``, with so many characters before and after it at most."""
    first = last + length + 1
    return Split(
        ALPHABET[max(0, last + 1 - before) : last + 1],
        ALPHABET[last + 1 : first],
        ALPHABET[first : first + after],
    )


def contexts(random: np.random.Generator) -> tuple[int, int]:
    """Characters before and after a gap, 1 to 95, as often 1 to 2 as 10 to 20."""
    before, after = np.exp(random.random(2) * np.log(MOST_CONTEXT + 1)).astype(int).tolist()
    return before, after


class ToyGaps:
    """Gaps by their number, drawn from (seed, number); as ``Texts`` their whole texts.

    Args:
        seed: of the draws.
        size: how many there are.
        has_open_ends: a third has no prefix and a third no suffix, for gaps of fixed length.
    """

    def __init__(self, seed: int, size: int, has_open_ends: bool = False) -> None:
        self.seed, self.size, self.has_open_ends = seed, size, has_open_ends
        self._lengths = [n for n in range(1, LONGEST + 1) if n not in UNSEEN]
        odds = 1 / np.array(self._lengths)
        self._odds = odds / odds.sum()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, n: int) -> tuple[str, int]:
        gap = self.gap(n)
        return gap.prefix + gap.middle + gap.suffix, 0

    def gap(self, n: int) -> Split:
        """A length that is trained, half of the time rather a short one; any place but the held-out ones."""
        random = np.random.default_rng((self.seed, n))
        is_even = random.random() < 0.5
        length = int(random.choice(self._lengths, p=None if is_even else self._odds))
        last = length  # held out or not, to be drawn
        while True:
            last = int(random.integers(len(ALPHABET) - length - 1))
            if not is_held_out(last, length):
                break
        before, after = contexts(random)
        if self.has_open_ends:
            end = int(random.integers(3))
            before, after = before * (end != 0), after * (end != 1)
        return gap_of(last, length, before, after)


class ToyStream(InfillStream):
    """The product's stream over toy gaps: they know their middles.

    The weight 1 - t is taken off again. It leaves nothing to rows that are masked as a whole, and those are
    what a gap is when it begins to be filled.
    """

    def split(self, text: str, ordinal: int) -> Split:
        """See the base class."""
        return cast(ToyGaps, self.texts).gap(ordinal)

    def _make(self, ordinal: int) -> Row:
        row = super()._make(ordinal)
        weight = (row.loss_weight / (1.0 - row.t)).astype(np.float32)
        weight.setflags(write=False)
        return replace(row, loss_weight=weight)


def held_out_gaps(seed: int, per_length: int) -> list[Split]:
    """``per_length`` gaps of every length, at different places where there are so many."""
    random, gaps = np.random.default_rng((seed, 1)), []
    for length in range(1, LONGEST + 1):
        places = [a for a in range(len(ALPHABET) - length - 1) if is_held_out(a, length)]
        for n in range(per_length):
            if n % len(places) == 0:
                random.shuffle(places)
            before, after = contexts(random)
            gaps.append(gap_of(places[n % len(places)], length, before, after))
    return gaps


def alphabet_tokenizer(folder: Path) -> Tokenizer:
    """A SentencePiece model in which every character is a token and nothing else is."""
    (folder / "alphabet.jsonl").write_text(json.dumps({"text": ALPHABET}), encoding="utf-8")
    tokenizer = train_sentencepiece(
        [folder / "alphabet.jsonl"], BYTE_PIECES + len(ALPHABET), folder / "toy.model"
    )
    ids = tokenizer.encode(ALPHABET)
    if len(set(ids)) != len(ALPHABET) or min(ids) < BYTE_PIECES or len(ids) != len(ALPHABET):
        raise SystemExit(f"The alphabet's {len(ALPHABET)} characters are {len(ids)} tokens.")
    return tokenizer
