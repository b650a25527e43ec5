"""What a judgement can say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a program fared. ``INFRASTRUCTURE`` says nothing of the program and is never a reward."""

    PASSED = "passed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    FORMAT = "format"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one program.

    Attributes:
        outcome: see above.
        test: which test failed: its name, its number, or the line of the tests.
        detail: one line for people; it may quote the program and is not to be trusted.
        cpu_seconds: of the candidate's process and its tests'.
    """

    outcome: Outcome
    test: str = ""
    detail: str = ""
    cpu_seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every test did."""
        return self.outcome is Outcome.PASSED


@dataclass(frozen=True)
class Limits:
    """Of one program, in seconds, bytes and processes.

    Attributes:
        cpu: seconds of each process; the limit that counts.
        wall: seconds for everything; generous, since machines are busy.
        memory: address space of each process.
        disk: of its files, all together.
        output: of what it prints, where that is read.
        processes: that it may have at once, threads among them.
    """

    cpu: int = 5
    wall: float = 15.0
    memory: int = 1 << 30
    disk: int = 16 << 20
    output: int = 1 << 20
    processes: int = 16
