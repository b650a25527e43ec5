"""``megatron-dream curate``: published prompts to the problems that RL is trained on (SPEC 8)."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError, MissingDependencyError, ModelFolderError
from ...files import atomic_write, remove_leftovers
from ...sandbox import Judging, Limits, SandboxUnavailable, start_judge
from ...sandbox.slot import Isolation
from ..problems import RlProblem, read_problems
from .balance import Balance, shares_of
from .candidates import CandidateOptions, folder_identity, load_candidates
from .decision import Decision
from .difficulty import Candidates, RatesOfFile, read_rates
from .duplicates import Duplicates
from .embedding import Embedder, TransformerEmbedder, check_encoder
from .minimum_tests import MinimumTests
from .phase import (
    Outcome,
    Phase,
    done_outcome,
    finish,
    identity_of,
    prepare_folder,
    read_decisions,
)
from .reading import Source, read_sources, sources_of
from .references import References
from .report import RESULTS, write_report, write_results

PROBLEMS = "read.jsonl"
_SHOWN = 20  # broken records that are named on the screen
Say = Callable[[str], None]


@dataclass(frozen=True)
class CurateOptions:
    """What is kept.

    Attributes:
        min_tests: of a problem with tests.
        similarity: of prompts that are copies; ours, none is published.
        embeddings: folder of a sentence encoder (all-MiniLM-L6-v2); None: copies word by word only.
        difficulty: a model's folder, a checkpoint, or a file of pass rates; None: not measured.
        candidates: for each prompt.
        temperature: that candidates are drawn with.
        max_new_tokens: of a candidate.
        candidate_batch: prompts that candidates are drawn for at once.
        drop_unsolved: drop prompts that no candidate solves as well.
        balance: shares by kind, such as function=1,stdin=1,output=1; None: as there are.
        max_problems: at most so many in the end; None: all.
        seed: of the candidates.
        judge_cpu_seconds: of each process of a judged program.
        judge_wall_seconds: of all of it.
    """

    min_tests: int = 5
    similarity: float = 0.85
    embeddings: Path | None = None
    difficulty: Path | None = None
    candidates: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 768
    candidate_batch: int = 4
    drop_unsolved: bool = False
    balance: str | None = None
    max_problems: int | None = None
    seed: int = 0
    judge_cpu_seconds: int = Limits.cpu
    judge_wall_seconds: float = Limits.wall

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in (
            "candidates",
            "max_new_tokens",
            "candidate_batch",
            "max_problems",
            "judge_cpu_seconds",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; give 1 or more.")
        if self.min_tests < 0 or self.seed < 0:
            name = "min-tests" if self.min_tests < 0 else "seed"
            raise ConfigError(f"--{name} is below 0; give 0 or more.")
        if not 0 < self.similarity <= 1:
            raise ConfigError(
                f"--similarity is {self.similarity}; give a cosine over 0, at most 1."
            )
        if not 0 < self.judge_wall_seconds < math.inf:
            raise ConfigError(
                f"--judge-wall-seconds is {self.judge_wall_seconds}; give a number over 0."
            )
        if self.temperature <= 0:
            raise ConfigError(
                f"--temperature is {self.temperature}; candidates have to differ, give a number over 0."
            )


def curate(
    input: Sequence[str],
    output: Path | str,
    *,
    workers: int | None = None,
    isolation: Isolation | None = None,
    endpoints: Sequence[str] = (),
    quiet: bool = False,
    **options: Any,
) -> list[Outcome]:
    """Curate; a call with the same inputs and options goes on where an earlier one was ended.

    One call at a time for one folder.

    Args:
        input: ``SCHEMA:PATH``, schemas in ``schemas/__init__.py``.
        output: folder, made where it is missing: problems.jsonl, apart.jsonl, report.md, report.json,
            dropped.jsonl, and phases/ with what a resumed call needs.
        workers: programs judged at once; None: one for each CPU.
        isolation: see ``Judge``.
        endpoints: of SandboxFusion, which then judges instead of this machine.
        quiet: print nothing.
        options: fields of ``CurateOptions``.

    Returns:
        What each phase came to.

    Raises:
        UserError: one sentence: bad options or inputs, a model that cannot be loaded, no sandbox.
    """
    chosen = CurateOptions(**options)
    limits = Limits(cpu=chosen.judge_cpu_seconds, wall=chosen.judge_wall_seconds)
    say: Say = (lambda text: None) if quiet else print
    make_judge = _JudgeStarter(workers, limits, isolation, endpoints, say)
    phases = phases_of(chosen, make_judge)
    sources = sources_of(input)
    run = _Run(Path(output), say, make_judge)
    outcomes = run.all(sources, phases)
    remove_leftovers(Path(output) / name for name in RESULTS)
    write_results(Path(output), run.read_problems, run.decisions)
    write_report(Path(output), outcomes, run.decisions)
    say(f"{outcomes[-1].num_after:,} problems: {Path(output) / 'problems.jsonl'}")
    return outcomes


def phases_of(options: CurateOptions, make_judge: _JudgeStarter) -> list[Phase]:
    """The phases after reading, in order.

    References come before duplicates: a prompt whose reference is wrong may not stand for its copies.
    """
    phases: list[Phase] = [
        MinimumTests(options.min_tests),
        References(make_judge, make_judge.identity()),
        _duplicates(options),
    ]
    if options.difficulty is not None:
        phases.append(_difficulty(options, options.difficulty, make_judge))
    if options.balance is not None or options.max_problems is not None:
        shares = shares_of(options.balance) if options.balance is not None else {}
        phases.append(Balance(shares, options.max_problems))
    return phases


def _duplicates(options: CurateOptions) -> Duplicates:
    folder = options.embeddings
    if folder is None:
        return Duplicates(options.similarity, None)
    check_encoder(folder)
    identity = identity_of(folder_identity(folder))
    make: Callable[[], Embedder] = functools.partial(TransformerEmbedder, folder)
    return Duplicates(options.similarity, make, identity)


def _difficulty(options: CurateOptions, path: Path, make_judge: _JudgeStarter) -> Phase:
    if not path.exists():
        raise ModelFolderError(f"{path} does not exist; name a model's folder or a file of rates.")
    if path.is_file():
        return RatesOfFile(read_rates(path), path, options.drop_unsolved)
    drawing = CandidateOptions(options.temperature, options.max_new_tokens)
    return Candidates(
        functools.partial(load_candidates, path, drawing),
        make_judge,
        {**folder_identity(path), **vars(drawing), **make_judge.identity()},
        options.candidates,
        options.seed,
        options.candidate_batch,
        options.drop_unsolved,
    )


class _JudgeStarter:
    """Starts judges, and says once what people should know of how programs are shut in."""

    def __init__(
        self,
        workers: int | None,
        limits: Limits,
        isolation: Isolation | None,
        endpoints: Sequence[str],
        say: Say,
    ) -> None:
        self._workers, self._limits, self._isolation = workers, limits, isolation
        self._endpoints, self._say = endpoints, say
        self._said = ""

    def identity(self) -> dict[str, Any]:
        """Plain values that verdicts depend on."""
        where = "SandboxFusion" if self._endpoints else self._isolation or "auto"
        return {"limits": vars(self._limits), "isolation": where}

    def __call__(self) -> Judging:
        try:
            judge = start_judge(self._workers, self._limits, self._isolation, self._endpoints)
        except SandboxUnavailable as error:
            raise MissingDependencyError(str(error)) from None
        if judge.notice != self._said:
            self._said = judge.notice
            self._say(judge.notice)
        return judge


class _Run:
    """One call: what the phases have decided so far.

    Attributes:
        decisions: of every phase that has run, by its name.
    """

    def __init__(self, output: Path, say: Say, make_judge: Callable[[], Judging]) -> None:
        self._phases = output / "phases"
        self._measured = self._phases / "measured"
        self._say = say
        self._make_judge = make_judge
        self._gone: set[str] = set()
        self.decisions: dict[str, list[Decision]] = {}

    def all(self, sources: Sequence[Source], phases: Sequence[Phase]) -> list[Outcome]:
        """Read, then every phase in order."""
        identity = identity_of([source.identity() for source in sources])
        outcomes = [self._read(sources, identity)]
        for number, phase in enumerate(phases, start=2):
            identity = identity_of(identity, phase.name, phase.identity())
            outcomes.append(self._phase(number, phase, identity, outcomes[-1].num_after))
        return outcomes

    def read_problems(self) -> Iterator[RlProblem]:
        """All that were read, in order."""
        return read_problems(self._phases / "1-read" / PROBLEMS)

    def _left(self) -> Iterator[RlProblem]:
        return (problem for problem in self.read_problems() if problem.id not in self._gone)

    def _read(self, sources: Sequence[Source], identity: str) -> Outcome:
        folder = self._phases / "1-read"
        outcome = done_outcome(folder, identity)
        if outcome is not None:
            return self._done("read", folder, outcome)
        started = time.monotonic()
        prepare_folder(folder)
        decisions: list[Decision] = []
        outcome, needs_judge = Outcome("read"), False
        with atomic_write(folder / PROBLEMS) as stream:
            for found in read_sources(sources):
                outcome.num_before += 1
                if isinstance(found, RlProblem):
                    stream.write(found.to_line())
                    needs_judge = needs_judge or found.problem is not None
                else:
                    decisions.append(found)
        self._name_broken(decisions)
        if needs_judge:
            self._make_judge().close()  # a sandbox that does not work is told before hours of embedding
        return self._finished(folder, identity, outcome, decisions, started)

    def _name_broken(self, decisions: list[Decision]) -> None:
        told = [decision.detail for decision in decisions if decision.detail]
        for line in told[:_SHOWN]:
            self._say(f"  {line}")
        if len(told) > _SHOWN:
            self._say(f"  and {len(told) - _SHOWN:,} more: phases/1-read/decisions.jsonl")

    def _phase(self, number: int, phase: Phase, identity: str, num_before: int) -> Outcome:
        folder = self._phases / f"{number}-{phase.name}"
        outcome = done_outcome(folder, identity)
        if outcome is not None:
            return self._done(phase.name, folder, outcome)
        started = time.monotonic()
        prepare_folder(folder)
        outcome = Outcome(phase.name, num_before)
        decisions = list(phase.decide(self._left, self._measured, outcome.notes))
        return self._finished(folder, identity, outcome, decisions, started)

    def _finished(
        self,
        folder: Path,
        identity: str,
        outcome: Outcome,
        decisions: list[Decision],
        started: float,
    ) -> Outcome:
        outcome.count(decisions)
        outcome.seconds = round(time.monotonic() - started, 3)
        finish(folder, identity, outcome, decisions)
        self._take(outcome.name, decisions)
        self._say(f"{outcome.line()} ({outcome.seconds:.1f} s)")
        return outcome

    def _done(self, name: str, folder: Path, outcome: Outcome) -> Outcome:
        self._take(name, read_decisions(folder))
        self._say(f"{outcome.line()} (done before)")
        return outcome

    def _take(self, name: str, decisions: list[Decision]) -> None:
        self.decisions[name] = decisions
        if name != "read":  # what reading dropped is in no file, and may have a kept problem's id
            self._gone |= {decision.id for decision in decisions if decision.fate != "rated"}
