"""Judging untrusted programs, the tests in one process and the candidate in another (docs/sandbox.md)."""

from .judge import Judge
from .outcome import Limits, Outcome, Verdict
from .problem import Problem, ProblemError, problem_of
from .slot import SandboxUnavailable

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
