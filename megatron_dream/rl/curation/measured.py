"""Results that cost hours (vectors, verdicts, candidates), apart from the decisions that are made of them.

Their files lie in one folder for all runs. A file's name has a digest of what all its results depend on,
and in it they are found by the problem that they are of: another threshold, other inputs or phases before
use them again, another model begins a file of its own. Nothing here is ever deleted.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ...sandbox.problem import fields_of
from ..problems import RlProblem
from .phase import identity_of


def measured_file(folder: Path, kind: str, depends: Any) -> Path:
    """Where results of a kind are kept, without a suffix.

    Args:
        folder: of all results.
        kind: first part of the name.
        depends: plain values that every result depends on, besides the problem.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{kind}-{identity_of(depends)[:16]}"


def problem_digest(problem: RlProblem) -> str:
    """The same for problems that are asked and judged alike, whatever their id."""
    tests = {} if problem.problem is None else {**fields_of(problem.problem), "task_id": ""}
    parts = [problem.kind, problem.messages(), tests, problem.answer]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
