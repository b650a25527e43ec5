"""Samples to verdicts: what of each answer is a program, and what our judge says of it.

Where a benchmark cannot be judged here task by task (BigCodeBench), each task's own reference solution is
judged first, and tasks whose reference fails are left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError, MissingDependencyError
from ...files import atomic_write
from ...sandbox import Judging, Limits, Outcome, Problem, SandboxUnavailable, Verdict, start_judge
from ...sandbox.engine import Isolation
from ..benchmarks.base import Benchmark, Task, cut_at_stops
from ..progress import sample_progress
from .records import Key

Json = dict[str, Any]
MEMORY = 4 << 30  # bytes of a program, as EvalPlus has it
OUTPUT = 64 << 20  # bytes that a script prints; right answers of contests have more than 1 MiB


@dataclass(frozen=True)
class Judged:
    """Verdicts of a benchmark's samples.

    Attributes:
        lines: the samples in the tasks' order, with ``passed``, ``outcome``, ``test`` and ``detail``.
        unjudged: tasks that our judge cannot judge, each with the reason.
    """

    lines: list[Json]
    unjudged: dict[str, str]


@dataclass(frozen=True)
class JudgeOptions:
    """Where programs run; see ``Judge`` and docs/sandbox.md."""

    workers: int | None = None
    isolation: Isolation | None = None
    endpoints: Sequence[str] = ()

    def start(self, cpu_seconds: int) -> Judging:
        """A judge that gives each program so long.

        Raises:
            MissingDependencyError: programs cannot be shut in here.
        """
        limits = Limits(cpu=cpu_seconds, wall=60.0 + 4 * cpu_seconds, memory=MEMORY, output=OUTPUT)
        try:
            judge = start_judge(self.workers, limits, self.isolation, self.endpoints)
        except SandboxUnavailable as error:
            raise MissingDependencyError(str(error)) from None
        if judge.notice:
            print(judge.notice)
        return judge


def reference_program(benchmark: Benchmark, task: Task) -> str:
    """The program of a task's reference solution, by the way that answers go."""
    problem = task.problem
    if problem is None or problem.reference is None:
        return ""
    if task.ask.messages or benchmark.is_fenced:  # what a chat model would have answered
        code = problem.reference
        if benchmark.name.startswith("humaneval"):
            code = problem.prompt + code
        if not benchmark.name.startswith("cruxeval"):
            return benchmark.program(task, f"```python\n{code}\n```\n")
    return benchmark.program(task, problem.reference)


def judge_references(
    benchmark: Benchmark, tasks: Sequence[Task], judge: Judging
) -> dict[str, Verdict]:
    """Verdicts of the tasks' own solutions, by task; tasks without a solution or tests are not there."""
    known = [task for task in tasks if task.problem is not None and task.problem.reference]
    programs = [(reference_program(benchmark, task), _problem(task)) for task in known]
    verdicts = judge.verdicts(programs)
    return {task.id: verdict for task, verdict in zip(known, verdicts, strict=True)}


def judge_samples(
    benchmark: Benchmark,
    tasks: Sequence[Task],
    samples: dict[Key, Json],
    judge: Judging,
    quiet: bool = False,
) -> Judged:
    """Judge every sample of every task.

    Raises:
        DataError: a task has no sample.
    """
    unjudged = {task.id: task.unjudged for task in tasks if task.problem is None}
    if benchmark.needs_references:
        for name, verdict in judge_references(benchmark, tasks, judge).items():
            if not verdict.passed:
                unjudged[name] = f"its reference solution: {verdict.outcome} {verdict.detail}"
    mine = list(_in_order(tasks, samples))
    chosen = [(task, sample) for task, sample in mine if task.id not in unjudged]
    programs = [
        benchmark.program(task, cut_at_stops(sample["answer"], task.stops))
        for task, sample in chosen
    ]
    asked = [
        (program, _problem(task))
        for (task, _), program in zip(chosen, programs, strict=True)
        if program
    ]
    verdicts = judge.verdicts(asked)
    lines = []
    with sample_progress(f"judging {benchmark.name}", len(chosen), quiet=quiet) as count:
        for (_, sample), program in zip(chosen, programs, strict=True):
            verdict = next(verdicts) if program else _no_program()
            lines.append(_line(sample, verdict))
            count(1)
    return Judged(lines, unjudged)


def _in_order(tasks: Iterable[Task], samples: dict[Key, Json]) -> Iterator[tuple[Task, Json]]:
    by_task: dict[str, list[Json]] = {}
    for (name, _), sample in sorted(samples.items()):
        by_task.setdefault(name, []).append(sample)
    for task in tasks:
        if task.id not in by_task:
            raise DataError(f"task {task.id} has no sample; run the evaluation to its end.")
        yield from ((task, sample) for sample in by_task[task.id])


def _problem(task: Task) -> Problem:
    assert task.problem is not None
    return task.problem


def _no_program() -> Verdict:
    return Verdict(Outcome.FORMAT, detail="the answer holds no program")


def _line(sample: Json, verdict: Verdict) -> Json:
    told = {"outcome": verdict.outcome.value, "test": verdict.test, "detail": verdict.detail}
    return {**sample, "passed": verdict.passed, **told}


def write_lines(path: Path, lines: Iterable[Json]) -> None:
    """JSON lines, whole or not at all."""
    with atomic_write(path) as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def harness_file(
    benchmark: Benchmark, tasks: Sequence[Task], samples: dict[Key, Json], folder: Path
) -> Path:
    """Write the samples as the benchmark's own evaluator reads them; the file."""
    answers: dict[str, list[str]] = {}
    for task, sample in _in_order(tasks, samples):
        answers.setdefault(task.id, []).append(cut_at_stops(sample["answer"], task.stops))
    lines = [line for task in tasks for line in benchmark.harness_lines(task, answers[task.id])]
    path = folder / f"{benchmark.name}{benchmark.harness_suffix}"
    with atomic_write(path) as stream:
        stream.write(benchmark.harness_text(lines))
    return path
