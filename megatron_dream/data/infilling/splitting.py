"""Which part of a text is the middle that a model learns to fill in (SPEC 6).

First step of an infilling sample's walk, before anything is ids: a function of the text and three numbers
in [0, 1). The middle is a run of characters, or of whole lines, and never empty; what lies before or
behind it may be. A cut lies between code points, so that each part is text of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """A text in three; put together they are the text."""

    prefix: str
    middle: str
    suffix: str


def split_text(text: str, draws: tuple[float, float, float], span_share: float) -> Split:
    """Choose the middle: two different places where the text may be cut, each pair equally likely.

    Args:
        text: at least one character.
        draws: in [0, 1). Below ``span_share`` the first makes it any run of characters, else whole lines;
            the others choose its ends (``NoiseStream.splitting``).
        span_share: probability of a run of characters.

    Raises:
        ValueError: the text is empty.
    """
    if not text:
        raise ValueError("An empty text has no middle.")
    kind, first, second = draws
    places = range(len(text) + 1) if kind < span_share else line_places(text)
    start, end = _two_of(places, first, second)
    return Split(text[:start], text[start:end], text[end:])


def line_places(text: str) -> list[int]:
    """Where a text may be cut between lines, both ends included; a line ends behind its line feed.

    Nothing else ends a line: a form feed or a lone carriage return lies inside one.
    """
    places, place = [0], 0
    for line in text.split("\n"):
        place += len(line) + 1
        places.append(min(place, len(text)))
    if text.endswith("\n"):
        places.pop()  # behind the last line feed there is no line
    return places


def num_lines(text: str) -> int:
    """Lines that hold more than blanks."""
    return sum(not line.isspace() and bool(line) for line in text.split("\n"))


def _two_of(places: Sequence[int], first: float, second: float) -> tuple[int, int]:
    one, other = int(first * len(places)), int(second * (len(places) - 1))
    other += other >= one  # each of those that are left
    return places[min(one, other)], places[max(one, other)]
