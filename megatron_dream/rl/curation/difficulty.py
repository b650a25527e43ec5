"""Phase difficulty: prompts that every candidate solves teach nothing (SPEC 8: 8 candidates).

Rates come from a model's candidates, judged as responses in training are, or from a file. A candidate
that the judge could say nothing of is not counted, and a problem with such is never dropped: it is rated by
the rest, or kept apart where there is no rest, and its candidates are asked again when they are needed again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from ...errors import DataError
from ...sandbox import Judging, Outcome, ProblemError
from ...sandbox.formats import program_of, value_of
from ...sandbox.problem import read_lines
from ..problems import RlProblem
from .candidates import CandidateModel
from .decision import Decision
from .measured import measured_file, problem_digest
from .phase import Phase, Problems
from .progress_file import ProgressFile
from .references import JudgeMaker, judged

ALL, NONE = "all candidates are right", "no candidate is right"


@dataclass(frozen=True)
class _Verdicts:
    """Of one problem's candidates: how many were right, and of how many the judge could tell."""

    right: int
    judged: int


def read_rates(path: Path) -> dict[str, float]:
    """Pass rates of a file, JSON lines with ``id`` and ``solve_rate``.

    Raises:
        DataError: a line has none, or a second one for an id.
    """
    rates: dict[str, float] = {}
    try:
        for where, fields in read_lines(path):
            name, rate = fields.get("id"), fields.get("solve_rate")
            if not isinstance(name, str) or name in rates:
                raise DataError(
                    f"{where}: field 'id' is no text or there twice; give each id once."
                )
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
                raise DataError(
                    f"{where}: field 'solve_rate' is {rate!r}; write a number from 0 to 1."
                )
            rates[name] = float(rate)
    except ProblemError as error:
        raise DataError(str(error)) from None
    return rates


def _fate(problem_id: str, rate: float, drops_unsolved: bool, is_certain: bool = True) -> Decision:
    """What a rate means; one that is not certain, since candidates were not judged, drops nothing."""
    if rate == 1 and is_certain:
        return Decision(problem_id, "dropped", ALL, solve_rate=rate)
    if rate == 0 and is_certain and drops_unsolved:
        return Decision(problem_id, "dropped", NONE, solve_rate=rate)
    return Decision(problem_id, "rated", solve_rate=rate)


@dataclass(frozen=True)
class RatesOfFile(Phase):
    """Difficulty as somebody else has measured it.

    Attributes:
        rates: by id.
        path: of the file, for messages.
        drops_unsolved: drop what nobody solves too.
    """

    name: ClassVar[str] = "difficulty"

    rates: Mapping[str, float]
    path: Path
    drops_unsolved: bool = False

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"rates": sorted(self.rates.items()), "drops_unsolved": self.drops_unsolved}

    def decide(self, problems: Problems, folder: Path, notes: list[str]) -> Iterator[Decision]:
        """See the base class.

        Raises:
            DataError: the file is of other problems.
        """
        num_without = num_with = 0
        for problem in problems():
            rate = self.rates.get(problem.id)
            if rate is None:
                num_without += 1
            else:
                num_with += 1
                yield _fate(problem.id, rate, self.drops_unsolved)
        if num_without and not num_with:
            raise DataError(
                f"{self.path}: no id in it is one of the {num_without:,} problems that are left; ids are "
                "those of phases/1-read/read.jsonl in the output folder."
            )
        if num_without:
            notes.append(f"{num_without:,} have no rate in {self.path.name} and go on")


@dataclass(frozen=True)
class Candidates(Phase):
    """Difficulty by a model's candidates.

    Attributes:
        make_model: loads it.
        make_judge: starts the judge.
        described: what the answers and their verdicts depend on.
        num_candidates: for each prompt.
        seed: each batch of the prompts draws from its own seed of this.
        batch_size: prompts at once.
        drops_unsolved: drop what no candidate solves too.
    """

    name: ClassVar[str] = "difficulty"

    make_model: Callable[[], CandidateModel]
    make_judge: JudgeMaker
    described: dict[str, Any] = field(default_factory=dict)
    num_candidates: int = 8
    seed: int = 0
    batch_size: int = 4
    drops_unsolved: bool = False

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {**self._depends(), "drops_unsolved": self.drops_unsolved}

    def _depends(self) -> dict[str, Any]:
        """What the counts depend on; any size of a batch draws as well."""
        names = ("described", "num_candidates", "seed")
        return {name: getattr(self, name) for name in names}

    def decide(self, problems: Problems, folder: Path, notes: list[str]) -> Iterator[Decision]:
        """See the base class."""
        path = measured_file(folder, "candidates", self._depends()).with_suffix(".jsonl")
        with ProgressFile(path) as progress:
            known = {found["problem"]: found for line in progress.lines for found in line["batch"]}
            # a line for a batch: a kill leaves whole batches, and what is left has the same batches then
            for batch in self._measure(problems, dict(known)):
                progress.add({"batch": batch})
                known |= {found["problem"]: found for found in batch}
        for problem in problems():
            line = known[problem_digest(problem)]
            if line["judged"]:
                rate = line["right"] / line["judged"]
                yield _fate(problem.id, rate, self.drops_unsolved, self._is_whole(line))
            elif line["candidates"]:
                yield Decision(problem.id, "apart", "no candidate was judged (infrastructure)")
            else:
                yield Decision(problem.id, "apart", "longer than the candidates' model takes")

    def _is_whole(self, line: dict[str, Any]) -> bool:
        """Whether every candidate was judged, so that asking again would tell no more."""
        return bool(line["judged"] == self.num_candidates)

    def _measure(
        self, problems: Problems, known: Mapping[str, dict[str, Any]]
    ) -> Iterator[list[dict[str, Any]]]:
        """Counts, batch by batch, of those that were never asked, then of those not judged whole."""
        model: CandidateModel | None = None
        with contextlib.ExitStack() as stack:
            judge: Judging | None = None
            for batch in self._batches(problems, known):
                digests = [problem_digest(problem) for problem in batch]
                prompts = [problem.messages() for problem in batch]
                model = model or self.make_model()
                texts = model.generate(prompts, self.num_candidates, self._seed(digests))
                if judge is None and any(problem.problem for problem in batch):
                    judge = stack.enter_context(self.make_judge())
                lines = []
                for problem, digest, answers in zip(batch, digests, texts, strict=True):
                    found = verdicts_of(problem, answers, judge)
                    line = {"problem": digest, "id": problem.id, "candidates": len(answers)}
                    lines.append(line | {"right": found.right, "judged": found.judged})
                yield lines

    def _batches(
        self, problems: Problems, known: Mapping[str, dict[str, Any]]
    ) -> Iterator[list[RlProblem]]:
        new = (problem for problem in problems() if problem_digest(problem) not in known)
        while batch := list(islice(new, self.batch_size)):
            yield batch
        again = (
            problem
            for problem in problems()
            if (line := known.get(problem_digest(problem))) and line["judged"] < line["candidates"]
        )
        while batch := list(islice(again, self.batch_size)):
            yield batch

    def _seed(self, digests: Sequence[str]) -> int:
        text = " ".join([str(self.seed), *digests])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def verdicts_of(problem: RlProblem, answers: Sequence[str], judge: Judging | None) -> _Verdicts:
    """How many answers are right; the judge runs those that are programs."""
    if problem.kind == "output":
        wanted = problem.wanted()
        return _Verdicts(sum(value_of(answer) == wanted for answer in answers), len(answers))
    assert judge is not None
    programs = [program for answer in answers if (program := program_of(answer)) is not None]
    found = [
        verdict.outcome
        for _, verdict in judged(
            judge, ((problem.id, problem.program(program), problem) for program in programs)
        )
    ]
    lost = found.count(Outcome.INFRASTRUCTURE)
    return _Verdicts(found.count(Outcome.PASSED), len(answers) - lost)
