"""Parts to SFT token files: in input order, each sample once, prompts dealt to training or validation.

Parts are read in the order of the shards, whoever made them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..preparing import PartsMerge
from ..preprocessing.parts import PartRecord, check_part
from .pair_files import PairWriter
from .prepare_job import EXCERPT_CHARACTERS, SftJob
from .rules import EXACT_DUPLICATE

_CHUNK = 1 << 16  # samples whose places are held at once
_DIGEST_BYTES = 16


class Merge(PartsMerge[PairWriter]):
    """Takes parts of samples; each once, prompts dealt to training or validation."""

    job: SftJob

    def __init__(
        self,
        job: SftJob,
        train: PairWriter,
        valid: PairWriter | None,
        dropped: IO[str],
        rejects: IO[str],
    ) -> None:
        super().__init__(job, train, valid, dropped, rejects, job.rules.active)
        self._seen: set[bytes] | None = set() if EXACT_DUPLICATE in self.rules else None

    def shown(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event for the sidecar; a copy is known by its ids only."""
        texts = {
            side: (text if isinstance(text, str) else self.job.tokenizer.decode(text.tolist()))
            for side, text in event.items()
            if side in ("prompt", "response")
        }
        return {"detail": event["detail"], **{k: v[:EXCERPT_CHARACTERS] for k, v in texts.items()}}

    def copies(self, record: PartRecord) -> Iterator[dict[str, Any]]:
        """See ``PartsMerge``."""
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
