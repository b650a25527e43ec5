"""Documents that are too short or too long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..document import Document
from .base import Filter, Options

_UNITS = ("characters", "bytes", "lines")


@dataclass
class LengthOptions(Options):
    """Bounds, both inclusive; None: none. Bytes are UTF-8's."""

    min_characters: int | None = None
    max_characters: int | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None
    min_lines: int | None = None
    max_lines: int | None = None

    def problem(self) -> str | None:
        """No bound at all, or bounds that nothing can meet."""
        bounds = list(self.bounds())
        if not bounds:
            return "has no bound; give min_characters, max_lines or another one"
        for unit, low, high in bounds:
            if (low is not None and low < 0) or (high is not None and high < 0):
                return f"has a negative bound of {unit}; give 0 or more"
            if low is not None and high is not None and low > high:
                return f"has min_{unit} {low} over max_{unit} {high}; exchange them"
        return None

    def bounds(self) -> Iterator[tuple[str, int | None, int | None]]:
        """``(unit, min, max)`` of every unit that has a bound."""
        for unit in _UNITS:
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if low is not None or high is not None:
                yield unit, low, high


class LengthFilter(Filter):
    """Drop what is outside the bounds."""

    name: ClassVar[str] = "length"

    def __init__(self, options: LengthOptions) -> None:
        super().__init__()
        self._bounds = list(options.bounds())

    def apply(self, document: Document) -> str | None:
        """Drop by the first bound that is broken: characters, bytes, lines."""
        for unit, low, high in self._bounds:
            size = size_of(document.text, unit)
            if low is not None and size < low:
                return f"under {low:,} {unit}"
            if high is not None and size > high:
                return f"over {high:,} {unit}"
        return None


def size_of(text: str, unit: str) -> int:
    """Characters, UTF-8 bytes or lines; a last line needs no newline, an empty text has no line."""
    if unit == "characters":
        return len(text)
    if unit == "bytes":
        return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return text.count("\n") + (text[-1:] not in ("", "\n"))
