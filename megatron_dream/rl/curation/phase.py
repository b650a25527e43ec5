"""Phases: each looks at what the ones before it have kept, decides, and is not run again once it is complete.

A phase's folder holds ``decisions.jsonl`` and, written last, ``done.json`` with what its outcome depends on:
its own options and all before it. A folder that says otherwise is of another run and is made anew; what took
long lies elsewhere (measured.py).
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ...files import atomic_write, write_json
from ..problems import RlProblem
from .decision import Decision

DECISIONS, DONE = "decisions.jsonl", "done.json"
FORMAT = 2  # of the files in phases/; what an earlier one has written is not read
Problems = Callable[[], Iterator[RlProblem]]


@dataclass
class Outcome:
    """What a phase came to.

    Attributes:
        name: of the phase.
        num_before: problems (records, for the first) that it looked at.
        num_after: that went on.
        reasons: how many were dropped, by reason.
        apart: how many are kept apart, by reason.
        notes: sentences for the report.
        seconds: that it took, when it ran.
    """

    name: str
    num_before: int = 0
    num_after: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    apart: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, decisions: list[Decision]) -> None:
        """Tell by decisions how many went on; ``num_before`` is known."""
        for fate, counts in (("dropped", self.reasons), ("apart", self.apart)):
            found = collections.Counter(d.reason for d in decisions if d.fate == fate)
            counts.update(dict(found.most_common()))
        self.num_after = self.num_before - sum(self.reasons.values()) - sum(self.apart.values())

    def line(self) -> str:
        """One line for people."""
        dropped = sum(self.reasons.values())
        text = f"{self.name}: {self.num_after:,} of {self.num_before:,} kept"
        if dropped:
            told = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
            text += f"; dropped {dropped:,}: {told}"
        if self.apart:
            told = ", ".join(f"{count:,} {reason}" for reason, count in self.apart.items())
            text += f"; kept apart {sum(self.apart.values()):,}: {told}"
        return "; ".join([text, *self.notes])


class Phase(ABC):
    """One step of curation.

    Attributes:
        name: of its folder and in reports.
    """

    name: ClassVar[str]

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain values that its decisions depend on, besides the problems."""

    @abstractmethod
    def decide(self, problems: Problems, folder: Path, notes: list[str]) -> Iterator[Decision]:
        """A decision for every problem that does not simply go on, in any order.

        Args:
            problems: gives an iterator over the problems that are left, in order, each time it is called.
            folder: of what was measured, by this run or another (measured.py).
            notes: to add sentences to, for the report.
        """


def identity_of(*parts: Any) -> str:
    """A digest of plain values and of the format of what is kept."""
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True).encode()).hexdigest()


def done_outcome(folder: Path, identity: str) -> Outcome | None:
    """The outcome of a phase that is complete; None: it is not, or is another run's."""
    try:
        told = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Outcome(**told["outcome"]) if told.get("identity") == identity else None


def prepare_folder(folder: Path) -> None:
    """Make a phase's folder, empty of what another run has decided.

    A kill leaves it complete, or not done, or away: what is half removed has another name.
    """
    away = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(away, ignore_errors=True)
    (folder / DONE).unlink(missing_ok=True)
    if folder.exists():
        os.replace(folder, away)
        shutil.rmtree(away, ignore_errors=True)
    folder.mkdir(parents=True)


def finish(folder: Path, identity: str, outcome: Outcome, decisions: list[Decision]) -> None:
    """Write what a phase decided, and then that it is complete."""
    with atomic_write(folder / DECISIONS) as stream:
        for decision in decisions:
            stream.write(json.dumps(decision.fields()) + "\n")
    write_json(folder / DONE, {"identity": identity, "outcome": vars(outcome)})


def read_decisions(folder: Path) -> list[Decision]:
    """What a complete phase decided."""
    with open(folder / DECISIONS, encoding="utf-8") as stream:
        return [Decision(**json.loads(line)) for line in stream]
