"""What came of a step's prompts: responses with their rewards, in memory and as a file of JSON lines.

The file is the record of the step, and what a run that was interrupted between rollout and update goes on
with: its first line says of which step and of which weights it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..sandbox.outcome import Outcome


@dataclass(frozen=True)
class Sample:
    """One response.

    Attributes:
        place: of its prompt in the step.
        number: of the response among those to this prompt.
        problem: the problem's id.
        kind: the problem's.
        tokens: ids of the whole canvas.
        opened: the step in which each of them opened.
        length: tokens before the first that ends a response.
        text: those tokens' text.
        outcome: of the judgement.
        detail: which test failed, and what was said.
        reward: 1 or 0; None where the judgement itself failed.
        program: what was judged; None where the response has no such format.
    """

    place: int
    number: int
    problem: str
    kind: str
    tokens: list[int]
    opened: list[int]
    length: int
    text: str
    outcome: str
    detail: str
    reward: float | None
    program: str | None

    @property
    def is_judged(self) -> bool:
        """Whether its reward can be used: a judgement that failed, or a reward that is no number, is none."""
        return self.reward is not None and math.isfinite(self.reward)


def reward_of(outcome: Outcome) -> float | None:
    """1 for all tests passed, None for a judgement that says nothing, else 0."""
    if outcome is Outcome.INFRASTRUCTURE:
        return None
    return float(outcome is Outcome.PASSED)


def file_of(folder: Path, step: int) -> Path:
    """The file of a step's samples."""
    return folder / f"step-{step:08d}.jsonl"


def write_samples(path: Path, head: dict[str, Any], samples: Sequence[Sample]) -> None:
    """Write a step's file; ``head`` is its first line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write(json.dumps(head) + "\n")
        for sample in samples:
            stream.write(json.dumps(asdict(sample)) + "\n")


def read_samples(path: Path, head: dict[str, Any]) -> list[Sample] | None:
    """A step's samples, or None where there is no file, or one of other weights or settings."""
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or json.loads(lines[0]) != head:
            return None
        return [Sample(**json.loads(line)) for line in lines[1:]]
    except (OSError, ValueError, TypeError):  # of another version, or broken: made again
        return None
