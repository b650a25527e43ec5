"""The rule by which published recipes thin out DCLM (SPEC 4).

Under 256 characters: dropped. A fastText probability over 0.5: kept; over 0.09532: kept with
probability score^2; else dropped. The draw is a function of the document's id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from ..document import Document, document_uniform
from .base import Filter, Options


@dataclass
class DclmOptions(Options):
    """Where the score is and where it cuts."""

    field: str = "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob"
    min_characters: int = 256
    keep_over: float = 0.5
    sample_over: float = 0.09532

    def problem(self) -> str | None:
        """Thresholds in the wrong order, or no field."""
        if not self.field:
            return "has an empty field; name the one that holds the score"
        if self.sample_over > self.keep_over:
            return (
                f"has sample_over {self.sample_over} over keep_over {self.keep_over}; exchange them"
            )
        return None


class DclmFilter(Filter):
    """Keep good documents, some of the middling, none of the rest."""

    name: ClassVar[str] = "dclm"

    def __init__(self, options: DclmOptions) -> None:
        super().__init__()
        self.options = options
        self.fields = (options.field,)

    def apply(self, document: Document) -> str | None:
        """Drop a document without a usable score too: nothing says that it is good."""
        options = self.options
        if len(document.text) < options.min_characters:
            return f"under {options.min_characters} characters"
        score = document.fields.get(options.field)
        if score is None:
            return "no score"
        if isinstance(score, bool) or not isinstance(score, Real) or not math.isfinite(score):
            return "the score is no number"
        score = float(score)
        if score > options.keep_over:
            return None
        if score > options.sample_over:
            is_drawn = document_uniform(document.id, "dclm") < score * score
            return None if is_drawn else "not drawn with probability score^2"
        return f"score not over {options.sample_over:g}"
