"""Problems of one's own: lines as the rl stage reads them (rl/problems.py), judged by our judge.

What of an answer is the program is the rl stage's rule too: the first closed fenced block. So a score here
and a reward there are of the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ...errors import DataError
from ...sandbox import Problem, ProblemError, problem_of
from ...sandbox.formats import program_of
from ...sandbox.problem import helpers_of
from .base import Ask, Benchmark, Json, Task, text_field

KINDS = ("function", "stdin")


class Problems(Benchmark):
    """Functions, and programs over standard input."""

    name, title = "problems", "own problems"
    file_names: ClassVar[tuple[str, ...]] = ("problems",)
    is_fenced = True

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        name, kind = (text_field(record, field, where) for field in ("id", "kind"))
        if kind not in KINDS:
            raise DataError(
                f"{where}: field 'kind' is {kind!r}, and the benchmark runs programs; leave out what is not "
                f"{' or '.join(KINDS)}."
            )
        problem = _problem(record, kind, where)
        return Task(name, self._ask(record.get("prompt"), where), problem, record)

    def _ask(self, prompt: Any, where: str) -> Ask:
        """Base models go on with the prompt's text after BOS; instruct models are asked by the template."""
        if isinstance(prompt, str) and prompt:
            is_base = self.style == "base"
            message = {"role": "user", "content": prompt}
            return Ask(text=prompt) if is_base else Ask(messages=(message,))
        if not isinstance(prompt, list) or not prompt or not all(map(_is_message, prompt)):
            raise DataError(
                f"{where}: field 'prompt' is to be text or a list of messages with role and content."
            )
        if self.style == "base":
            raise DataError(
                f"{where}: its prompt is messages, which base models are not asked by; give --style instruct."
            )
        return Ask(messages=tuple(prompt))

    def program(self, task: Task, answer: str) -> str:
        """The first closed fenced block, behind what the tests' prompt gives to all."""
        program = program_of(answer)
        if program is None or task.problem is None:
            return ""
        given = helpers_of(task.problem)
        return f"{given}\n{program}" if given else program

    def harness_lines(self, task: Task, answers: Sequence[str]) -> list[Json]:
        """As ``megatron-dream judge`` reads samples of problems without a prompt of their own."""
        return [{"task_id": task.id, "completion": program_of(a) or ""} for a in answers]


def _problem(record: Json, kind: str, where: str) -> Problem:
    fields = record.get("problem")
    if not isinstance(fields, dict):
        raise DataError(f"{where}: field 'problem' is missing; a {kind} problem needs its tests.")
    try:
        problem = problem_of(fields, f"{where}, field 'problem'")
    except ProblemError as error:
        raise DataError(str(error)) from None
    if problem.kind != kind:
        raise DataError(
            f"{where}: field 'problem' has tests of kind {problem.kind}, field 'kind' says {kind}; make them "
            "agree."
        )
    return problem


def _is_message(message: Any) -> bool:
    is_object = isinstance(message, dict)
    return is_object and all(isinstance(message.get(name), str) for name in ("role", "content"))
