"""Parts to SFT token files: in input order, each sample once, prompts dealt to training or validation.

Only one process sees all samples, so that copies are found here; which of two stays does not depend on
the workers. Parts are read in the order of the shards, whoever made them.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..preparing import RuleCount
from ..preprocessing.parts import PartRecord, check_part, part_path
from .pair_files import PairWriter
from .prepare_job import EXCERPT_CHARACTERS, SftJob
from .rules import EXACT_DUPLICATE

_CHUNK = 1 << 16  # samples whose places are held at once
_DIGEST_BYTES = 16


class Merge:
    """Takes parts in shard order.

    Args:
        job: what the parts are of.
        train: where samples go.
        valid: where those of validation prompts go; None: there are none.
        dropped: JSON lines of what rules dropped.
        rejects: JSON lines of broken records.

    Attributes:
        rules: counts by rule, of the active ones.
        rejected: broken records.
        num_records: read, blank lines included.
    """

    def __init__(
        self,
        job: SftJob,
        train: PairWriter,
        valid: PairWriter | None,
        dropped: IO[str],
        rejects: IO[str],
    ) -> None:
        self.job, self.train, self.valid = job, train, valid
        self.rules = {name: RuleCount() for name in job.rules.active}
        self.rejected = RuleCount()
        self.num_records = 0
        self._dropped, self.rejects = dropped, rejects
        self._seen: set[bytes] | None = set() if EXACT_DUPLICATE in self.rules else None
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
        events = heapq.merge(
            self._events(record), self._copies(record), key=lambda e: (e["piece"], e["record"])
        )
        for event in events:  # reading them all also writes the samples, in _copies
            file, before = starts[event.pop("piece")]
            self._note(self._place(file, before + event.pop("record")), event)

    def _place(self, file: int, number: int) -> dict[str, Any]:
        """Lines are counted from 1, rows of tables from 0, as preprocess does."""
        found = self.job.files[file]
        is_lines = found.format == "jsonl"
        return {"file": found.path, "line" if is_lines else "row": number + is_lines}

    def _note(self, place: dict[str, Any], event: dict[str, Any]) -> None:
        if "rule" not in event:
            self.rejected.add(event["reason"], lambda: {**place, **event})
            self.rejects.write(json.dumps({**place, **event}) + "\n")
            return
        rule, detail = event["rule"], event["detail"]
        self.rules[rule].add(detail, lambda: {**place, **self._shown(event)})
        self._dropped.write(json.dumps({**place, "rule": rule, "detail": detail}) + "\n")

    def _shown(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event for the sidecar; a copy is known by its ids only."""
        texts = {
            side: (text if isinstance(text, str) else self.job.tokenizer.decode(text.tolist()))
            for side, text in event.items()
            if side in ("prompt", "response")
        }
        return {"detail": event["detail"], **{k: v[:EXCERPT_CHARACTERS] for k, v in texts.items()}}

    def _events(self, record: PartRecord) -> Iterator[dict[str, Any]]:
        """What the worker noted: dropped samples and broken records."""
        if not record.rejected and not record.dropped:
            return
        check_part(self.job.parts, record, ".rejects.jsonl")
        path = part_path(self.job.parts, record.shard, ".rejects.jsonl")
        with open(path, encoding="utf-8") as stream:
            yield from map(json.loads, stream)

    def _copies(self, record: PartRecord) -> Iterator[dict[str, Any]]:
        """Write the part's samples; yields those that are copies of earlier ones."""
        if not record.documents:
            return
        ids = np.memmap(check_part(self.job.parts, record, ".bin"), self.job.dtype, "r")
        numbers = np.memmap(check_part(self.job.parts, record, ".len"), np.int32, "r")
        all_places = numbers.reshape(-1, 4)
        start = 0
        for first in range(0, len(all_places), _CHUNK):
            for piece, number, prompt, response in all_places[first : first + _CHUNK].tolist():
                both = np.asarray(ids[start : start + prompt + response]).astype("<i4")
                start += both.size
                if self._is_copy(both, prompt):
                    sides = {"prompt": both[:prompt], "response": both[prompt:]}
                    rule = {"rule": EXACT_DUPLICATE, "detail": "a copy of an earlier sample"}
                    yield {"piece": piece, "record": number, **rule, **sides}
                else:
                    self._side_of(both[:prompt]).add(both, prompt, response)

    def _is_copy(self, both: NDArray[np.int32], prompt: int) -> bool:
        if self._seen is None:
            return False
        head = prompt.to_bytes(8, "little")  # where the prompt ends is part of what is compared
        key = hashlib.blake2b(head + both.tobytes(), digest_size=_DIGEST_BYTES).digest()
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def _side_of(self, prompt: NDArray[np.int32]) -> PairWriter:
        if self.valid is not None and prompt_uniform(prompt) < self.job.valid_share:
            return self.valid
        return self.train


def prompt_uniform(prompt: NDArray[np.int32]) -> float:
    """A number in [0, 1) of a rendered prompt alone: all samples of a prompt are on one side.

    Args:
        prompt: ids, int32 [prompt tokens].
    """
    digest = hashlib.sha256(prompt.astype("<i4").tobytes()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) * 2.0**-53
