"""Judging untrusted programs, the tests in one process and the candidate in another (docs/sandbox.md)."""

from .engine import SandboxUnavailable
from .fusion import start_judge
from .judge import Judge, Judging
from .outcome import Limits, Outcome, Verdict
from .problem import Problem, ProblemError, problem_of

__all__ = [
    "Judge",
    "Judging",
    "Limits",
    "Outcome",
    "Problem",
    "ProblemError",
    "SandboxUnavailable",
    "Verdict",
    "problem_of",
    "start_judge",
]
