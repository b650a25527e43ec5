"""Documents that hold parts of evaluation sets (SPEC 5).

Without this filter, or without sets in it, the run and the model card say "not decontaminated".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..document import Document
from .base import Filter, Options
from .evaluation_sets import EvaluationSet, read_evaluation_set
from .ngrams import GRAM_TOKENS, GramIndex


@dataclass
class DecontaminationOptions(Options):
    """What documents are compared with.

    Attributes:
        sets: evaluation sets.
        tokens: of an n-gram.
        min_tokens: an evaluation text shorter than this is looked for as a whole document only; from
            here to ``tokens`` anywhere in a document.
        min_words: an n-gram counts with this many tokens that hold a letter (ours: rows of numbers are in
            one in fifty files of the standard library).
    """

    sets: list[EvaluationSet] = field(default_factory=list)
    tokens: int = GRAM_TOKENS
    min_tokens: int = 5
    min_words: int = 1

    def problem(self) -> str | None:
        """A set without a file, or no tokens."""
        if any(not one.path for one in self.sets):
            return "has a set without a path; give its file"
        if self.tokens < 1 or self.min_tokens < 1 or self.min_words < 0:
            return "has tokens or min_tokens under 1, or min_words under 0; give more"
        return None

    def input_files(self) -> Sequence[Path]:
        """The sets' files."""
        return [Path(one.path) for one in self.sets]


class DecontaminationFilter(Filter):
    """Drop a document that shares an n-gram with an evaluation set, and name the item.

    Attributes:
        evaluation_sets: their names.
    """

    name: ClassVar[str] = "decontamination"

    def __init__(self, options: DecontaminationOptions) -> None:
        super().__init__()
        self.evaluation_sets = [one.title for one in options.sets]
        texts = (pair for one in options.sets for pair in read_evaluation_set(one))
        self._index = GramIndex(texts, options.tokens, options.min_tokens, options.min_words)

    def apply(self, document: Document) -> str | None:
        """The reason names the evaluation item whose gram comes first in the document."""
        item = self._index.find(document.text)
        return None if item is None else f"in {item}"
