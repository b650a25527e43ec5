"""Documents that repeat themselves, by the ratios of Gopher (arXiv 2112.11446, table A1).

Five kinds of share: repeated lines and paragraphs (of their number, and of the text's characters),
characters in the most frequent 2- to 4-gram of words, characters in 5- to 10-grams that occurred
before. Words are what white space separates; a share's whole is the text's characters, white space
included. Lines and paragraphs are compared as they stand. The most frequent n-gram counts from two
occurrences on: one is no repetition, however short the text.

The thresholds are the paper's, made for prose: of the standard library's files they drop 18%, mostly by
lines (``else:``, ``return x``). For code raise or switch off (null) those of lines.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..document import Document
from .base import Filter, Options

_PARAGRAPHS = re.compile(r"\n(?:[^\S\n]*\n)+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 / golden ratio: spreads small numbers


@dataclass
class RepetitionOptions(Options):
    """The largest share that stays; null: not looked at."""

    lines: float | None = 0.30
    line_characters: float | None = 0.20
    paragraphs: float | None = 0.30
    paragraph_characters: float | None = 0.20
    top_2_gram: float | None = 0.20
    top_3_gram: float | None = 0.18
    top_4_gram: float | None = 0.16
    repeated_5_gram: float | None = 0.15
    repeated_6_gram: float | None = 0.14
    repeated_7_gram: float | None = 0.13
    repeated_8_gram: float | None = 0.12
    repeated_9_gram: float | None = 0.11
    repeated_10_gram: float | None = 0.10

    def problem(self) -> str | None:
        """A threshold that is no share."""
        for name, value in vars(self).items():
            if value is not None and not 0 <= value <= 1:
                return f"has {name} {value}; a share lies between 0 and 1"
        return None


class RepetitionFilter(Filter):
    """Drop a document by its first share over the threshold."""

    name: ClassVar[str] = "repetition"

    def __init__(self, options: RepetitionOptions) -> None:
        super().__init__()
        self._limits = {name: v for name, v in vars(options).items() if v is not None}
        sizes = [int(name.split("_")[1]) for name in self._limits if name.endswith("_gram")]
        self._max_gram = max(sizes, default=0)

    def apply(self, document: Document) -> str | None:
        """Shares are computed one after the other, the cheap ones first."""
        for name, share in self._shares(document.text):
            if share > self._limits.get(name, 1.0):
                return f"{name} over {self._limits[name]:g}"
        return None

    def _shares(self, text: str) -> Iterator[tuple[str, float]]:
        if not text:
            return
        limits = self._limits
        if "lines" in limits or "line_characters" in limits:
            pieces = [line for line in text.split("\n") if line and not line.isspace()]
            yield from _piece_shares(pieces, len(text), ("lines", "line_characters"))
        if "paragraphs" in limits or "paragraph_characters" in limits:
            pieces = _PARAGRAPHS.split(text.strip())
            yield from _piece_shares(pieces, len(text), ("paragraphs", "paragraph_characters"))
        if self._max_gram:
            yield from gram_shares(text, self._max_gram)


def _piece_shares(
    pieces: list[str], size: int, names: tuple[str, str]
) -> Iterator[tuple[str, float]]:
    """Shares of pieces that an equal one precedes: of their number, and of the text."""
    unique = set(pieces)
    if len(unique) == len(pieces):
        return
    yield names[0], (len(pieces) - len(unique)) / len(pieces)
    yield names[1], (sum(map(len, pieces)) - sum(map(len, unique))) / size


def gram_shares(text: str, longest: int = 10) -> Iterator[tuple[str, float]]:
    """``top_N_gram`` for N from 2 to 4, ``repeated_N_gram`` from 5 to ``longest``, of all characters.

    A repeated n-gram holds repeated (n-1)-grams, so each length looks only at the places that the one
    before left: in ordinary text few.
    """
    words = text.split()
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    ends = np.concatenate([[0], np.cumsum(lengths)])  # characters before each word, without blanks
    numbers = np.fromiter(
        map({}.setdefault, words, itertools.count(1)),  # type: ignore[arg-type]
        np.uint64,
        len(words),
    )
    keys = numbers * _MULTIPLIER
    places, hashes = np.arange(len(words)), keys.copy()
    for n in range(2, longest + 1):
        inside = places + n <= len(words)
        places, hashes = places[inside], hashes[inside]
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MULTIPLIER + keys[places + n - 1]
        order = np.argsort(hashes, kind="stable")
        is_repeat = np.zeros(len(order), bool)  # in sorted order: equal to its predecessor
        is_repeat[1:] = hashes[order[1:]] == hashes[order[:-1]]
        if not is_repeat.any():
            return
        if n <= 4:
            yield f"top_{n}_gram", _top_share(places[order], is_repeat, ends, n) / len(text)
        else:
            repeats = places[order[is_repeat]]
            yield f"repeated_{n}_gram", _covered(repeats, lengths, n) / len(text)
        is_repeat[:-1] |= is_repeat[1:]  # and the first of each
        left = np.sort(order[is_repeat])
        places, hashes = places[left], hashes[left]


def _top_share(
    places: NDArray[np.int64], is_repeat: NDArray[np.bool_], ends: NDArray[np.int64], n: int
) -> int:
    """Characters of the most frequent n-gram, blanks between its words included, times its count."""
    firsts = np.flatnonzero(~is_repeat)
    counts = np.diff(np.append(firsts, len(is_repeat)))
    top = firsts[counts == counts.max()]
    characters = ends[places[top] + n] - ends[places[top]] + n - 1
    return int(characters.max() * counts.max())


def _covered(repeats: NDArray[np.int64], lengths: NDArray[np.int64], n: int) -> int:
    """Characters of the words that lie in some repeated n-gram, each once."""
    steps = np.zeros(len(lengths) + 1, np.int64)
    steps[repeats] += 1  # the places differ, so none is lost
    steps[repeats + n] -= 1
    return int(lengths[np.cumsum(steps[:-1]) > 0].sum())
