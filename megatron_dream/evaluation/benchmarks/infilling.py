"""HumanEval-infilling: single lines, several lines, random spans (openai/human-eval-infilling).

What is judged is prefix, middle and suffix. A model that finds the gap's length itself gets no other
hint of it; with a fixed gap the middle ends at its first end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ...errors import DataError
from ...sandbox import Problem, ProblemError, problem_of
from .base import Ask, Benchmark, Json, Task, text_field


class Infilling(Benchmark):
    """One of the ways in which the benchmark cuts HumanEval's solutions."""

    styles: ClassVar = ("base",)
    is_infilling = True

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        prefix, suffix = text_field(record, "prompt", where), text_field(record, "suffix", where)
        text_field(record, "canonical_solution", where)
        try:
            # the prefix is cut anywhere: helpers of the tests come from the program, which has them all
            problem = problem_of({**record, "prompt": ""}, where)
        except ProblemError as error:
            raise DataError(str(error)) from None
        tests = problem.tests
        helpers = [
            name for name in ("poly", "encode_shift", "encode_cyclic") if f"{name}(" in tests
        ]
        functions = (*problem.functions, *(n for n in helpers if n not in problem.functions))
        problem = Problem(
            problem.task_id,
            "function",
            tests=tests,
            functions=functions,
            reference=problem.reference,
        )
        return Task(problem.task_id, Ask(gap=(prefix, suffix)), problem, record)

    def program(self, task: Task, answer: str) -> str:
        """The whole file."""
        assert task.ask.gap is not None
        prefix, suffix = task.ask.gap
        return prefix + answer + suffix

    def harness_lines(self, task: Task, answers: Sequence[str]) -> list[Json]:
        """human-eval-infilling's: ``task_id`` and the ``completion``."""
        return [{"task_id": task.id, "completion": answer} for answer in answers]


class SingleLine(Infilling):
    """1,033 single lines."""

    name, title = "infilling_single", "HumanEval-infilling single-line"
    file_names = ("HumanEval-SingleLineInfilling",)


class MultiLine(Infilling):
    """5,815 runs of lines."""

    name, title = "infilling_multi", "HumanEval-infilling multi-line"
    file_names = ("HumanEval-MultiLineInfilling",)


class RandomSpan(Infilling):
    """1,640 spans that begin and end anywhere."""

    name, title = "infilling_random", "HumanEval-infilling random span"
    file_names = ("HumanEval-RandomSpanInfilling",)
