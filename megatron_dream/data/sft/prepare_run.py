"""One preparation of prompts and answers: what it writes and says (data/preparing.py does the work)."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from ..preparing import PrepareRun
from .merging import Merge
from .pair_files import PairWriter
from .prepare_job import KIND, SftJob
from .prepare_report import sidecar


class SftRun(PrepareRun):
    """Parts of samples to ``P`` and ``P_valid``."""

    kind, noun, flags = KIND, "sample", "the rules"
    job: SftJob

    def writer(self, prefix: Path) -> PairWriter:
        """Writes two sequences a sample."""
        return PairWriter(prefix, self.job.parts, self.job.dtype)

    def merge_of(
        self, train: PairWriter, valid: PairWriter | None, dropped: IO[str], rejects: IO[str]
    ) -> Merge:
        """Finds copies and deals prompts to training or validation."""
        return Merge(self.job, train, valid, dropped, rejects)

    def sidecar(self, merge: Merge, side: PairWriter) -> dict[str, Any]:
        """``P.json`` of one of the files."""
        return sidecar(merge, side)
