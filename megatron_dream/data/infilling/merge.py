"""Parts to files of texts: in input order, each text once, dealt to training or validation by its hash.

Only one process sees all texts, so that copies are found here; which of two stays does not depend on the
workers. Parts are read in the order of the shards, whoever made them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import IO, Any

import numpy as np

from ..preparing import RuleCount
from ..preprocessing.parts import PartRecord, check_part, part_path
from .job import EXACT_DUPLICATE, EXCERPT_CHARACTERS, RULES, InfillJob
from .text_writer import TextWriter

_DIGEST_BYTES = 16


class InfillMerge:
    """Takes parts in shard order.

    Args:
        job: what the parts are of.
        train: where texts go.
        valid: where those of the validation share go; None: there is none.
        dropped: JSON lines of what rules dropped.
        rejects: JSON lines of broken records.

    Attributes:
        rules: counts by rule.
        rejected: broken records.
        num_records: read, blank lines included.
        filters: counters of the filters, by part.
    """

    def __init__(
        self,
        job: InfillJob,
        train: TextWriter,
        valid: TextWriter | None,
        dropped: IO[str],
        rejects: IO[str],
    ) -> None:
        self.job, self.train, self.valid = job, train, valid
        self.dropped, self.rejects = dropped, rejects
        self.rules = {name: RuleCount() for name in RULES}
        self.rejected = RuleCount()
        self.num_records = 0
        self.filters: list[dict[str, Any]] = []
        self._seen: set[bytes] = set()
        self._passed: Counter[int] = Counter()  # records of each file in the shards before

    def add(self, record: PartRecord) -> None:
        """Append the next part.

        Raises:
            DataError: the part is missing or altered.
        """
        starts = []
        for file, count in record.pieces:
            starts.append((file, self._passed[file]))
            self._passed[file] += count
            self.num_records += count
        self.filters.append(record.filters)
        events = [*self._events(record), *self._write(record)]
        for event in sorted(events, key=lambda event: (event["piece"], event["record"])):
            file, before = starts[event.pop("piece")]
            self._note(self._place(file, before + event.pop("record")), event)

    def _place(self, file: int, number: int) -> dict[str, Any]:
        """Lines are counted from 1, rows of tables from 0, as preprocess does."""
        found = self.job.files[file]
        is_lines = found.format != "parquet" and found.format != "arrow"
        return {"file": found.path, "line" if is_lines else "row": number + is_lines}

    def _note(self, place: dict[str, Any], event: dict[str, Any]) -> None:
        if "rule" not in event:
            self.rejected.add(event["reason"], lambda: {**place, **event})
            self.rejects.write(json.dumps({**place, **event}) + "\n")
            return
        rule, detail = event["rule"], event["detail"]
        example = {**place, "detail": detail, "text": event["text"]}
        self.rules[rule].add(detail, lambda: example)
        self.dropped.write(json.dumps({**place, "rule": rule, "detail": detail}) + "\n")

    def _events(self, record: PartRecord) -> list[dict[str, Any]]:
        """What the worker noted: dropped texts and broken records."""
        if not record.rejected and not record.dropped:
            return []
        check_part(self.job.parts, record, ".rejects.jsonl")
        path = part_path(self.job.parts, record.shard, ".rejects.jsonl")
        with open(path, encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]

    def _write(self, record: PartRecord) -> list[dict[str, Any]]:
        """Write the part's texts; returns those that are copies of earlier ones."""
        if not record.documents:
            return []
        raw = np.memmap(check_part(self.job.parts, record, ".bin"), np.uint8, "r")
        places = np.fromfile(check_part(self.job.parts, record, ".len"), np.int32).reshape(-1, 4)
        copies, start = [], 0
        for piece, number, size, num_tokens in places.tolist():
            text = raw[start : start + size].tobytes()
            start += size
            digest = hashlib.sha256(text).digest()
            if digest[:_DIGEST_BYTES] in self._seen:
                shown = text.decode("utf-8")[:EXCERPT_CHARACTERS]
                what = {"detail": "a copy of an earlier text", "text": shown}
                copies.append({"piece": piece, "record": number, "rule": EXACT_DUPLICATE, **what})
                continue
            self._seen.add(digest[:_DIGEST_BYTES])
            self._side_of(digest).add(text, num_tokens)
        return copies

    def _side_of(self, digest: bytes) -> TextWriter:
        number = (int.from_bytes(digest[:8], "little") >> 11) * 2.0**-53
        is_valid = self.valid is not None and number < self.job.valid_share
        return self.valid if is_valid and self.valid is not None else self.train
