"""One preparation of prompts and answers: what it writes and says (data/preparing.py does the work)."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from ..preparing import PrepareRun
from .merging import Merge
from .pair_files import PairWriter
from .prepare_job import KIND, SftJob
from .prepare_report import SftResult, nothing_left, result_of, sidecar


class SftRun(PrepareRun[SftResult]):
    """Parts of samples to ``P`` and ``P_valid``."""

    kind = KIND
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

    def nothing_left(self, merge: Merge, *, is_valid: bool) -> str:
        """Why there is nothing to write, as a sentence."""
        return nothing_left(merge, is_valid=is_valid)

    def result_of(self, values: dict[str, Any]) -> SftResult:
        """What a training file's sidecar tells of."""
        return result_of(values, self.job)
