"""Documents that an earlier pass found to be duplicates, taken out by its list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..document import Document
from .base import Filter, Options


@dataclass
class DuplicatesOptions(Options):
    """Attributes: list: the folder that a pass over the duplicates wrote."""

    list: str = ""

    def problem(self) -> str | None:
        """No list."""
        return None if self.list else "names no list; give the folder of a pass over duplicates"

    def input_files(self) -> Sequence[Path]:
        """The folder."""
        return [Path(self.list)]


class DuplicatesFilter(Filter):
    """Drop documents on the list, by their id."""

    name: ClassVar[str] = "duplicates"

    def __init__(self, options: DuplicatesOptions) -> None:
        super().__init__()
        from ..duplicates import load_drop_list  # passes read documents: not needed without a list

        self._list = load_drop_list(Path(options.list))

    def apply(self, document: Document) -> str | None:
        """Whether the list has it."""
        return "duplicate" if document in self._list else None
