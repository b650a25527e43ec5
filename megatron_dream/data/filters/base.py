"""What a filter is. A document that was read goes through a chain of these before it is tokenized.

A filter decides by the document alone (text, fields, id), so that any number of workers drop the same
ones. It may put another text in the document's place (masking); the chain counts that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..document import Document


@dataclass
class Options:
    """Base of a filter's options: dataclasses whose fields are what a recipe may write."""

    def problem(self) -> str | None:
        """What is wrong with these values, as the rest of a sentence; None where nothing is."""
        return None

    def input_files(self) -> Sequence[Path]:
        """Files and folders whose content decides with the options what is dropped."""
        return []


class Filter(ABC):
    """One step of a chain.

    Attributes:
        name: as in a recipe.
        fields: of a record that it needs; ``licence``, ``language`` and ``quality`` are wherever the
            corpus keeps them.
        details: counts of its own, such as what was masked; added up over shards.
    """

    name: ClassVar[str]
    fields: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.details: Counter[str] = Counter()

    @abstractmethod
    def apply(self, document: Document) -> str | None:
        """None keeps the document; a reason drops it. Reasons are few: they are counted."""

    def redact(self, text: str) -> str:
        """The beginning of a dropped document as a report may show it; masking filters mask it."""
        return text


def strings_of(value: Any) -> list[str]:
    """A field that may be a string or a list of strings: the strings, stripped, without empty ones."""
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    return [text for item in values if isinstance(item, str) and (text := item.strip())]
