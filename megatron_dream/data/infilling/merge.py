"""Parts to files of texts: in input order, each text once, dealt to training or validation by its hash.

Parts are read in the order of the shards, whoever made them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from ..preparing import PartsMerge
from ..preprocessing.parts import PartRecord, check_part
from .job import EXACT_DUPLICATE, EXCERPT_CHARACTERS, RULES, InfillJob
from .text_writer import TextWriter

_DIGEST_BYTES = 16


class InfillMerge(PartsMerge[TextWriter]):
    """Takes parts of texts; each once, dealt to training or validation by its hash.

    Attributes:
        filters: counters of the filters, by part.
    """

    job: InfillJob

    def __init__(
        self,
        job: InfillJob,
        train: TextWriter,
        valid: TextWriter | None,
        dropped: IO[str],
        rejects: IO[str],
    ) -> None:
        super().__init__(job, train, valid, dropped, rejects, RULES)
        self.filters: list[dict[str, Any]] = []
        self._seen: set[bytes] = set()

    def add(self, record: PartRecord) -> None:
        """Append the next part, and what its filters counted."""
        self.filters.append(record.filters)
        super().add(record)

    def shown(self, event: dict[str, Any]) -> dict[str, Any]:
        """The beginning of the text."""
        return {"detail": event["detail"], "text": event["text"]}

    def copies(self, record: PartRecord) -> Iterator[dict[str, Any]]:
        """See ``PartsMerge``."""
        if not record.documents:
            return
        raw = np.memmap(check_part(self.job.parts, record, ".bin"), np.uint8, "r")
        places = np.fromfile(check_part(self.job.parts, record, ".len"), np.int32).reshape(-1, 4)
        start = 0
        for piece, number, size, num_tokens in places.tolist():
            text = raw[start : start + size].tobytes()
            start += size
            digest = hashlib.sha256(text).digest()
            if digest[:_DIGEST_BYTES] in self._seen:
                shown = text.decode("utf-8")[:EXCERPT_CHARACTERS]
                what = {"detail": "a copy of an earlier text", "text": shown}
                yield {"piece": piece, "record": number, "rule": EXACT_DUPLICATE, **what}
                continue
            self._seen.add(digest[:_DIGEST_BYTES])
            self._side_of(digest).add(text, num_tokens)

    def _side_of(self, digest: bytes) -> TextWriter:
        number = (int.from_bytes(digest[:8], "little") >> 11) * 2.0**-53
        is_valid = self.valid is not None and number < self.job.valid_share
        return self.valid if is_valid and self.valid is not None else self.train
