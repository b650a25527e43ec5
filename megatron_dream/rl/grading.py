"""From a response's text to its verdict: the format by kind, then the judge or a comparison (SPEC 8)."""

from __future__ import annotations

import os
from concurrent.futures import Future

from ..config.schema import RlConfig
from ..sandbox import Limits, Outcome, Verdict, start_judge
from ..sandbox.formats import program_of, value_of
from .problems import RlProblem


class Grader:
    """Judges responses in the background; use it where programs may run, one on each data-parallel rank.

    Args:
        rl: limits, workers, isolation or endpoints, and format.
        replicas_here: data-parallel replicas of this machine, each with a judge; they share its CPUs.

    Raises:
        SandboxUnavailable: programs cannot be shut in here.
    """

    def __init__(self, rl: RlConfig, replicas_here: int = 1) -> None:
        self._exactly_one = rl.exactly_one_block
        limits = Limits(
            cpu=rl.judge_cpu_seconds,
            wall=rl.judge_wall_seconds,
            memory=rl.judge_memory_mb << 20,
        )
        workers = rl.judge_workers or None
        if not (workers or rl.judge_endpoints):
            workers = max(1, len(os.sched_getaffinity(0)) // replicas_here)
        isolation = None if rl.isolation == "auto" else rl.isolation
        self._judge = start_judge(workers, limits, isolation, rl.judge_endpoints)
        self._known: dict[tuple[str, str], Future[Verdict]] = {}

    @property
    def notice(self) -> str:
        """What a person should know of how programs are shut in; empty where it is as it should be."""
        return self._judge.notice

    def begin(self) -> None:
        """Forget the programs of the step before: equal ones are judged once a step."""
        self._known.clear()

    def submit(self, problem: RlProblem, text: str) -> tuple[str | None, Future[Verdict]]:
        """What of a response is judged, if it has the format, and its verdict to come.

        Nothing that a response holds raises here: other ranks would wait for this one.
        """
        try:
            return self._submit(problem, text)
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            return None, _known(Verdict(Outcome.INFRASTRUCTURE, detail=detail))

    def _submit(self, problem: RlProblem, text: str) -> tuple[str | None, Future[Verdict]]:
        if problem.kind == "output":
            found = value_of(text)
            return None if found is None else text, _known(_compared(problem, found))
        program = program_of(text, exactly_one=self._exactly_one)
        if program is None:
            return None, _known(Verdict(Outcome.FORMAT, detail="no closed fenced block"))
        assert problem.problem is not None
        key = (problem.id, program)
        if key not in self._known:
            self._known[key] = self._judge.submit(problem.program(program), problem.problem)
        return program, self._known[key]

    def close(self) -> None:
        """End the judge."""
        self._judge.close()


def _compared(problem: RlProblem, found: object) -> Verdict:
    if found is None:
        return Verdict(Outcome.FORMAT, detail="no value")
    if found == problem.wanted():
        return Verdict(Outcome.PASSED)
    return Verdict(Outcome.FAILED, detail="another value than the wanted one")


def _known(verdict: Verdict) -> Future[Verdict]:
    future: Future[Verdict] = Future()
    future.set_result(verdict)
    return future
