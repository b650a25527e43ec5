"""HumanEval (openai/human-eval) and HumanEval+ (EvalPlus).

Base models go on with the prompt and stop at the next thing at the margin; what is judged is prompt and
completion, sanitised as EvalPlus does. Instruct models are asked as EvalPlus asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ...errors import DataError
from ...sandbox import ProblemError, problem_of
from .base import Ask, Benchmark, Json, Task, text_field
from .chat_prompts import BASE_STOPS, CHAT_STOPS, code_ask
from .extract import sanitise, untabbed
from .plus import plus_problem

BASE_ENDS = (*BASE_STOPS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")


class HumanEval(Benchmark):
    """164 functions."""

    name, title = "humaneval", "HumanEval"
    file_names: ClassVar[tuple[str, ...]] = ("HumanEval",)

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        try:
            problem = problem_of(record, where)
        except ProblemError as error:
            raise DataError(str(error)) from None
        return Task(problem.task_id, self._ask(record, where), problem, record, self._stops())

    def _ask(self, record: Json, where: str) -> Ask:
        # EvalPlus strips prompts: a model goes on at the beginning of a line
        prompt = text_field(record, "prompt", where).strip() + "\n"
        return Ask(text=prompt) if self.style == "base" else code_ask(prompt)

    def _stops(self) -> tuple[str, ...]:
        return BASE_ENDS if self.style == "base" else CHAT_STOPS

    def program(self, task: Task, answer: str) -> str:
        """Sanitised: what the entry point needs of prompt and completion, or of the answer."""
        entry_point = str(task.record["entry_point"])
        answer = untabbed(answer)
        text = (task.ask.text or "") + answer if self.style == "base" else answer
        return sanitise(text, entry_point)

    def harness_lines(self, task: Task, answers: Sequence[str]) -> list[Json]:
        """EvalPlus's: ``task_id`` and the whole ``solution``."""
        return [{"task_id": task.id, "solution": self.program(task, answer)} for answer in answers]


class HumanEvalPlus(HumanEval):
    """The same tasks with EvalPlus's many inputs beside HumanEval's."""

    name, title = "humaneval_plus", "HumanEval+"
    file_names = ("HumanEvalPlus-v0.1.10", "HumanEvalPlus")
    cpu_seconds = 60  # over a thousand inputs of a task, and the reference's answers to them

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        problem = plus_problem(record, where, "humaneval")
        return Task(problem.task_id, self._ask(record, where), problem, record, self._stops())
