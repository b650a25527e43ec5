"""One preparation of texts to infill: what it writes and says (data/preparing.py does the work)."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from ..preparing import PrepareRun
from .job import InfillJob
from .merge import InfillMerge
from .report import sidecar
from .text_files import KIND
from .text_writer import TextWriter


class InfillRun(PrepareRun):
    """Parts of texts to ``P`` and ``P_valid``."""

    kind, noun, flags = KIND, "text", "--json-key, --from and --max-length"
    job: InfillJob

    def writer(self, prefix: Path) -> TextWriter:
        """Writes one sequence of bytes a text."""
        return TextWriter(prefix, self.job.parts)

    def merge_of(
        self, train: TextWriter, valid: TextWriter | None, dropped: IO[str], rejects: IO[str]
    ) -> InfillMerge:
        """Finds copies and deals texts to training or validation."""
        return InfillMerge(self.job, train, valid, dropped, rejects)

    def sidecar(self, merge: InfillMerge, side: TextWriter) -> dict[str, Any]:
        """``P.json`` of one of the files."""
        return sidecar(merge, side)
