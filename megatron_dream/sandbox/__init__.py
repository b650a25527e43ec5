"""Judging untrusted programs, the tests in one process and the candidate in another (docs/sandbox.md)."""

from .engine import SandboxUnavailable
from .judge import Judge
from .outcome import Limits, Outcome, Verdict
from .problem import Problem, ProblemError, problem_of

__all__ = [
    "Judge",
    "Limits",
    "Outcome",
    "Problem",
    "ProblemError",
    "SandboxUnavailable",
    "Verdict",
    "problem_of",
]
