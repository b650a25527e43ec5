"""``megatron-dream judge``: samples against their problems' tests, each shut in, one verdict a line."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingDependencyError
from ..files import atomic_write
from ..sandbox import (
    Limits,
    Outcome,
    Problem,
    ProblemError,
    SandboxUnavailable,
    problem_of,
    start_judge,
)
from ..sandbox.engine import Isolation
from ..sandbox.problem import read_lines
from .progress import sample_progress

Sample = tuple[dict[str, Any], str, Problem]


def judge_files(
    problems: Path,
    samples: Path,
    output: Path,
    *,
    workers: int | None = None,
    isolation: Isolation | None = None,
    endpoints: Sequence[str] = (),
    limits: Limits | None = None,
    quiet: bool = False,
) -> dict[Outcome, int]:
    """Judge every sample; print how many fared how.

    Args:
        problems: JSON lines with HumanEval's fields, or ``inputs`` and ``outputs`` (sandbox/problem.py).
        samples: JSON lines with ``task_id`` and ``completion``, which is put behind the problem's prompt, or
            ``program``, which stands alone.
        output: the samples' lines with ``passed``, ``outcome``, ``test`` and ``detail`` added.
        workers: programs at once; None: one for each CPU.
        isolation: see ``Judge``.
        endpoints: of SandboxFusion, which then judges instead of this machine.
        limits: of each program.
        quiet: no progress.

    Returns:
        How many samples had each outcome.

    Raises:
        DataError: a line is no problem or no sample.
        MissingDependencyError: programs cannot be shut in here.
    """
    try:
        known = {}
        for where, fields in read_lines(problems):
            problem = problem_of(fields, where)
            if problem.task_id in known:
                raise DataError(f"{where}: task_id {problem.task_id!r} is there twice; keep one.")
            known[problem.task_id] = problem
        chosen = list(_read_samples(samples, known))
    except ProblemError as error:
        raise DataError(str(error)) from None
    counts: collections.Counter[Outcome] = collections.Counter()
    try:
        judge = start_judge(workers, limits, isolation, endpoints)
    except SandboxUnavailable as error:
        raise MissingDependencyError(str(error)) from None
    if judge.notice:
        print(judge.notice)
    with (
        judge,
        atomic_write(output) as stream,
        sample_progress("judging", len(chosen), quiet=quiet) as count,
    ):
        verdicts = judge.verdicts((program, problem) for _, program, problem in chosen)
        for (fields, _, _), verdict in zip(chosen, verdicts, strict=True):
            counts[verdict.outcome] += 1
            told = {"test": verdict.test, "detail": verdict.detail}
            line = {**fields, "passed": verdict.passed, "outcome": verdict.outcome.value, **told}
            stream.write(json.dumps(line, ensure_ascii=True) + "\n")
            count(1)
    print(_summary(counts, output))
    return counts


def _read_samples(path: Path, problems: dict[str, Problem]) -> Iterator[Sample]:
    for where, fields in read_lines(path):
        problem = problems.get(fields.get("task_id", ""))
        if problem is None:
            raise DataError(f"{where}: task_id {fields.get('task_id')!r} is none of the problems'.")
        program, completion = fields.get("program"), fields.get("completion")
        if program is None and isinstance(completion, str):
            program = problem.prompt + completion
        if not isinstance(program, str):
            raise DataError(f"{where}: give a string completion, or a string program.")
        yield fields, program, problem


def _summary(counts: collections.Counter[Outcome], output: Path) -> str:
    total, lost = sum(counts.values()), counts[Outcome.INFRASTRUCTURE]
    judged = total - lost
    passed = counts[Outcome.PASSED]
    share = f" ({passed / judged:.1%})" if judged else ""
    others = ", ".join(
        f"{outcome.value} {n}" for outcome, n in counts.most_common() if outcome != "passed"
    )
    text = f"{passed} of {judged} judged samples passed{share}" + (f"; {others}" if others else "")
    if lost:
        text += f"; {lost} say nothing of their program (infrastructure) and are not counted"
    return f"{text}: {output}"
