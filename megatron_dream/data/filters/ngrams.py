"""N-grams of tokens shared between documents and a fixed set of texts.

SPEC 5: 13 lower-case tokens of a word-and-punctuation split (runs of word characters, runs of other
characters that are no white space); a shorter text counts whole. The texts' tokens are numbered;
a document's other tokens are 0, and only runs without a 0 are hashed. A hash that is found is compared
token by token, so that no collision drops anything.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRAM_TOKENS = 13
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_TOKEN_ASCII = re.compile(r"\w+|[^\w\s]+", re.ASCII)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def tokens_of(text: str) -> list[str]:
    """Lower-case words and runs of punctuation."""
    pattern = _TOKEN_ASCII if text.isascii() else _TOKEN  # the same tokens, sooner
    return pattern.findall(text.lower())


@dataclass(frozen=True)
class _Grams:
    """All n-grams of one length: hashes in order, and where each first stands in all tokens."""

    size: int
    hashes: NDArray[np.uint64]
    places: NDArray[np.int64]


class GramIndex:
    """Texts to compare documents with.

    Args:
        texts: ``(item, text)``; the item is named by a match, the first of several equal ones.
        size: tokens of a gram.
        min_tokens: a text of fewer tokens is found only where it is the whole document: a word or two
            occur everywhere.
        min_words: tokens with a letter that a gram has to hold: ``1, 2, 3, 4, 5, 6, 7`` is in any test.
    """

    def __init__(
        self,
        texts: Iterable[tuple[str, str]],
        size: int = GRAM_TOKENS,
        min_tokens: int = 1,
        min_words: int = 0,
    ) -> None:
        self._size, self._min_words = size, min_words
        self._vocabulary: dict[str, int] = {}
        self._items: list[str] = []
        self._whole: dict[tuple[str, ...], str] = {}
        pieces, starts = [np.zeros(0, np.int64)], [0]
        for item, text in texts:
            tokens = tokens_of(text)
            if not tokens:
                continue
            if len(tokens) < min(size, min_tokens):
                self._whole.setdefault(tuple(tokens), item)
                continue
            number = self._vocabulary.setdefault
            ids = [number(token, len(self._vocabulary) + 1) for token in tokens]
            self._items.append(item)
            pieces.append(np.array(ids, np.int64))
            starts.append(starts[-1] + len(ids))
        self._tokens = np.concatenate(pieces)
        self._starts = np.array(starts)
        self._weights = _spread(np.arange(len(self._vocabulary) + 1, dtype=np.uint64))
        self._grams = self._all_grams(size) if self._items else []

    def __len__(self) -> int:
        """Number of different grams."""
        return sum(len(grams.hashes) for grams in self._grams) + len(self._whole)

    def find(self, text: str) -> str | None:
        """The item that shares a gram with a document: the first gram's in the document."""
        tokens = tokens_of(text)
        if self._whole and len(tokens) < self._size and (item := self._whole.get(tuple(tokens))):
            return item
        known = map(self._vocabulary.get, tokens, itertools.repeat(0))
        ids = np.fromiter(known, np.int64, len(tokens))
        unknown = np.concatenate([[0], np.cumsum(ids == 0)])
        for grams in self._grams:
            starts = np.flatnonzero(unknown[grams.size :] == unknown[: -grams.size])
            if starts.size and (item := self._match(grams, ids, starts)):
                return item
        return None

    def _match(
        self, grams: _Grams, ids: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> str | None:
        hashes = self._hash(ids, starts, grams.size)
        at = np.searchsorted(grams.hashes, hashes)
        at[at == len(grams.hashes)] = 0
        for hit in np.flatnonzero(grams.hashes[at] == hashes):
            start, place = starts[hit], grams.places[at[hit]]
            here, there = ids[start : start + grams.size], self._tokens[place : place + grams.size]
            if np.array_equal(here, there):
                return self._items[int(np.searchsorted(self._starts, place, side="right")) - 1]
        return None

    def _all_grams(self, size: int) -> list[_Grams]:
        """Grams by length, the longest first; shorter ones are of the texts that are shorter."""
        lengths = np.diff(self._starts)
        is_word = np.array([False, *(any(map(str.isalpha, token)) for token in self._vocabulary)])
        words = np.concatenate([[0], np.cumsum(is_word[self._tokens])])
        found = []
        for length in sorted({min(int(n), size) for n in lengths}, reverse=True):
            is_own = lengths >= size if length == size else lengths == length
            counts = (lengths - length + 1)[is_own]
            firsts = np.repeat(self._starts[:-1][is_own] - (np.cumsum(counts) - counts), counts)
            places = firsts + np.arange(counts.sum())
            places = places[words[places + length] - words[places] >= self._min_words]
            hashes, first = np.unique(self._hash(self._tokens, places, length), return_index=True)
            if places.size:
                found.append(_Grams(length, hashes, places[first]))
        return found

    def _hash(
        self, ids: NDArray[np.int64], starts: NDArray[np.int64], size: int
    ) -> NDArray[np.uint64]:
        """64-bit hashes of the grams that begin at ``starts``."""
        total = np.zeros(len(starts), np.uint64)
        for offset in range(size):
            total = total * _MULTIPLIER + self._weights[ids[starts + offset]]
        return total


def _spread(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers to 64 well mixed bits each: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    mixed = (numbers + np.uint64(1)) * _MULTIPLIER
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
