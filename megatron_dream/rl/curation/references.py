"""Phase references: a solution that comes with a problem has to pass its tests; else one of them is wrong.

Both come from strangers and are run as every candidate is (sandbox). What says nothing of the solution
(infrastructure, after the judge's own tries) is kept apart, and tried again when the phase is run again. So
is what ran out of wall-clock time and not of CPU time, on a machine that was busy or by waiting: it is tried
once more with nothing beside it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ...sandbox import Judging, Outcome, Verdict
from ..problems import RlProblem
from .decision import Decision
from .measured import measured_file, problem_digest
from .phase import Phase, Problems
from .progress_file import ProgressFile
from .testcode import parsed

JudgeMaker = Callable[[], Judging]
_AHEAD = 4  # for each worker, waiting
_SAID = 300
LATE = "reference: out of wall-clock time twice"
Named = TypeVar("Named")


def reference_program(problem: RlProblem) -> str | None:
    """The reference as a whole program.

    Behind its prompt, as HumanEval's are, where that makes Python; else, such as behind a prompt in words, it
    is a program itself and is run as those of responses are.
    """
    if problem.problem is None or problem.problem.reference is None:
        return None
    reference = problem.problem.reference
    if problem.kind != "function":
        return reference
    whole = f"{problem.problem.prompt}\n{reference}" if problem.problem.prompt else reference
    return whole if parsed(whole) is not None else problem.program(reference)


def judged(
    judge: Judging, programs: Iterable[tuple[Named, str, RlProblem]]
) -> Iterator[tuple[Named, Verdict]]:
    """Verdicts in order, each with what came with its program; few programs wait at a time."""
    waiting: collections.deque[tuple[Named, Future[Verdict]]] = collections.deque()
    for name, program, problem in programs:
        assert problem.problem is not None
        waiting.append((name, judge.submit(program, problem.problem)))
        if len(waiting) > _AHEAD * judge.workers:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


@dataclass(frozen=True)
class References(Phase):
    """Drops problems whose reference does not pass.

    Attributes:
        make_judge: starts the judge, when there is something to judge.
        judge_identity: what verdicts depend on besides the problem: limits, how programs are shut in.
    """

    name: ClassVar[str] = "references"

    make_judge: JudgeMaker
    judge_identity: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"judge": self.judge_identity}

    def decide(self, problems: Problems, folder: Path, notes: list[str]) -> Iterator[Decision]:
        """See the base class."""
        num_with = num_without = 0
        path = measured_file(folder, "verdicts", self.judge_identity).with_suffix(".jsonl")
        with ProgressFile(path) as progress:
            said = {line["problem"]: line for line in progress.lines}
            known = {
                digest for digest, line in said.items() if line["outcome"] != Outcome.INFRASTRUCTURE
            }
            for digest in [d for d in known if _needs_another_try(said[d])]:
                known.remove(digest)
            is_more = False
            for problem in problems():
                has_reference = reference_program(problem) is not None
                num_with, num_without = num_with + has_reference, num_without + (not has_reference)
                is_more = is_more or (has_reference and problem_digest(problem) not in known)
            if is_more:
                with self.make_judge() as judge:
                    for line in _lines(judge, problems, known):
                        said[line["problem"]] = line
                        progress.add(line)
        notes.append(f"{num_with:,} have a reference, {num_without:,} have none and go on")
        for problem in problems():
            line = said.get(problem_digest(problem), {"outcome": Outcome.PASSED})
            if line["outcome"] == Outcome.INFRASTRUCTURE:
                yield Decision(problem.id, "apart", "not judged (infrastructure)", line["detail"])
            elif line.get("is_late"):
                yield Decision(problem.id, "apart", LATE, line["detail"])
            elif line["outcome"] != Outcome.PASSED:
                reason = f"reference: {line['outcome']}"
                yield Decision(problem.id, "dropped", reason, line["detail"])


def _lines(judge: Judging, problems: Problems, known: set[str]) -> Iterator[dict[str, Any]]:
    """Verdicts on references as they come; then those of the late ones, alone."""
    late: set[str] = set()
    for (name, digest), verdict in judged(judge, _unjudged(problems, known)):
        if _is_late(verdict):
            late.add(digest)
        yield _line(name, digest, verdict)
    for problem in problems():
        program, digest = reference_program(problem), problem_digest(problem)
        if digest in late and program is not None:
            late.remove(digest)
            assert problem.problem is not None
            verdict = judge.submit(program, problem.problem).result()
            yield _line(problem.id, digest, verdict) | {"alone": True}


def _line(name: str, digest: str, verdict: Verdict) -> dict[str, Any]:
    detail = " ".join(f"{verdict.test} {verdict.detail}".split())[:_SAID]
    line = {"problem": digest, "id": name, "outcome": verdict.outcome.value, "detail": detail}
    return line | {"is_late": True} if _is_late(verdict) else line


def _is_late(verdict: Verdict) -> bool:
    """Whether only the wall's clock ended it: the details of timeouts are the judge's own words."""
    return verdict.outcome is Outcome.TIMEOUT and not verdict.detail.endswith("s of CPU")


def _needs_another_try(line: dict[str, Any]) -> bool:
    return bool(line.get("is_late") and not line.get("alone"))


def _unjudged(
    problems: Problems, known: set[str]
) -> Iterator[tuple[tuple[str, str], str, RlProblem]]:
    for problem in problems():
        program, digest = reference_program(problem), problem_digest(problem)
        if program is not None and digest not in known:
            yield (problem.id, digest), program, problem
