"""BigCodeBench: full and hard, complete (go on with code) and instruct (from a description).

Its tests are unittest classes over 139 libraries, files and patches. Our judge has the standard library
alone and runs tests in another process than the program, so it takes a task only if the task's own
reference solution passes there; the others are left to the benchmark's own evaluator, and a score from
here says how many tasks it stands on.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from typing import ClassVar

from ...errors import DataError
from ...sandbox import Problem
from .base import Ask, Benchmark, Json, Task, text_field
from .chat_prompts import BASE_STOPS, CHAT_STOPS, code_ask
from .extract import sanitise, untabbed

_RUN = """
def test_unittest():
    import unittest
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(TestCases).run(result)
    assert result.testsRun and result.wasSuccessful(), [str(t) for t, _ in result.failures + result.errors]
"""
COMPLETE_STOPS = (*BASE_STOPS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")


class BigCodeBenchComplete(Benchmark):
    """1,140 functions to go on with."""

    name, title = "bigcodebench_complete", "BigCodeBench complete (full)"
    file_names: ClassVar[tuple[str, ...]] = (
        "BigCodeBench-v0.1.4",
        "BigCodeBench",
        "bigcodebench",
        "v0.1.4",
    )
    prompt_field = "complete_prompt"
    needs_references = True
    cpu_seconds = 60

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        name, entry_point = (
            text_field(record, field, where) for field in ("task_id", "entry_point")
        )
        prompt = text_field(record, self.prompt_field, where)
        code, tests = text_field(record, "code_prompt", where), text_field(record, "test", where)
        reference = text_field(record, "canonical_solution", where)
        missing = [library for library in _libraries(record, where) if not _is_standard(library)]
        problem = None
        if not missing:
            problem = Problem(
                name, "function", tests=f"{tests}\n{_RUN}", functions=(entry_point,),
                reference=code + reference,
            )  # fmt: skip
        unjudged = f"needs {', '.join(missing)}" if missing else ""
        return Task(name, self._ask(prompt), problem, record, self._stops(), unjudged)

    def _ask(self, prompt: str) -> Ask:
        if self.style == "base":
            return Ask(text=prompt.strip("\n") + "\n")
        return code_ask(prompt, fenced=self.prompt_field == "complete_prompt")

    def _stops(self) -> tuple[str, ...]:
        return COMPLETE_STOPS if self.style == "base" else CHAT_STOPS

    def _solution(self, task: Task, answer: str) -> str:
        answer = untabbed(answer)
        text = (task.ask.text or "") + answer if self.style == "base" else answer
        return sanitise(text, str(task.record["entry_point"]))

    def program(self, task: Task, answer: str) -> str:
        """Sanitised and calibrated: the prompt's imports stand before, as the benchmark's ``--calibrate``."""
        return f"{task.record['code_prompt']}\n    pass\n{self._solution(task, answer)}"

    def harness_lines(self, task: Task, answers: Sequence[str]) -> list[Json]:
        """Its own: ``task_id`` and the whole ``solution``; its evaluator calibrates."""
        return [{"task_id": task.id, "solution": self._solution(task, a)} for a in answers]


class BigCodeBenchInstruct(BigCodeBenchComplete):
    """The same tasks from a description."""

    name, title = "bigcodebench_instruct", "BigCodeBench instruct (full)"
    prompt_field = "instruct_prompt"
    styles = ("instruct",)


class BigCodeBenchHardComplete(BigCodeBenchComplete):
    """148 of them."""

    name, title = "bigcodebench_hard_complete", "BigCodeBench complete (hard)"
    file_names = ("BigCodeBench-Hard-v0.1.4", "BigCodeBench-Hard", "bigcodebench-hard")


class BigCodeBenchHardInstruct(BigCodeBenchInstruct):
    """148 of them from a description (the paper's hard)."""

    name, title = "bigcodebench_hard_instruct", "BigCodeBench instruct (hard)"
    file_names = BigCodeBenchHardComplete.file_names


def _libraries(record: Json, where: str) -> list[str]:
    """What a task imports, by its own list."""
    try:
        libraries = ast.literal_eval(record["libs"]) if record.get("libs") else []
        return [str(library) for library in libraries]
    except (ValueError, SyntaxError, TypeError):
        raise DataError(f"{where}: field 'libs' is no list; give the benchmark's file.") from None


def _is_standard(library: str) -> bool:
    return library.partition(".")[0] in sys.stdlib_module_names
