"""Phase tests: a prompt with few tests rewards what only looks right (SPEC 8: at least 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..problems import RlProblem
from .decision import Decision
from .phase import Phase, Problems
from .testcode import num_checks


def num_tests(problem: RlProblem) -> int | None:
    """Cases of a script, checks of Python tests; None: a predicted value, which has one answer."""
    if problem.problem is None:
        return None
    if problem.problem.kind == "stdin":
        return len(problem.problem.cases)
    return num_checks(problem.problem.tests)


@dataclass(frozen=True)
class MinimumTests(Phase):
    """Drops problems of fewer than ``minimum`` tests."""

    name: ClassVar[str] = "tests"

    minimum: int = 5

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"minimum": self.minimum}

    def decide(self, problems: Problems, folder: Path, notes: list[str]) -> Iterator[Decision]:
        """See the base class."""
        for problem in problems():
            count = num_tests(problem)
            if count is not None and count < self.minimum:
                reason = f"fewer than {self.minimum} tests"
                yield Decision(problem.id, "dropped", reason, f"{count} tests")
