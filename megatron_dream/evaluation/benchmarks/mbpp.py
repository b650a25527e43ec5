"""MBPP: the sanitised tasks with their three assertions, and MBPP+ in EvalPlus's format.

``mbpp`` reads evalplus/mbppplus of the hub (378 tasks), Google's sanitized-mbpp.json, or EvalPlus's file.
Base models get the public recipe's prompt: the text, three assertions, and the head of an answer; EvalPlus's
own prompt where its file has no assertions.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import ClassVar

from ...errors import DataError
from ...sandbox import Problem
from .base import Ask, Benchmark, Json, Task, text_field
from .chat_prompts import BASE_STOPS, CHAT_STOPS, code_ask
from .extract import sanitise, untabbed
from .plus import plus_problem

PREFIX = "Here is the completed function:\n```python\n"


class Mbpp(Benchmark):
    """The assertions of MBPP."""

    name, title = "mbpp", "MBPP"
    file_names: ClassVar[tuple[str, ...]] = (
        "MbppPlus-v0.2.0",
        "MbppPlus",
        "mbppplus",
        "mbpp",
        "sanitized-mbpp",
    )

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        if "base_input" in record:
            problem = self._plus(record, where)
            return Task(
                problem.task_id, self._plus_ask(record, where), problem, record, self._stops()
            )
        number = record.get("task_id")
        if not isinstance(number, (int, str)):
            raise DataError(f"{where}: field 'task_id' is missing; give the benchmark's file.")
        tests = record.get("test_list")
        if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
            raise DataError(f"{where}: field 'test_list' is to be a list of assertions.")
        code = text_field(record, "code", where)
        try:
            functions = called_functions(code, tests)
        except SyntaxError as error:
            raise DataError(f"{where}: its code or a test is no Python ({error}).") from None
        if not functions:
            raise DataError(f"{where}: its assertions call no function of 'code'; mend the record.")
        imports = record.get("test_imports") or []
        problem = Problem(
            f"Mbpp/{str(number).rpartition('/')[2]}",
            "function",
            tests="\n".join((*imports, str(record.get("test_setup_code") or ""), *tests)),
            functions=functions,
            reference=code,
        )
        record = {**record, "entry_point": functions[0]}
        return Task(
            problem.task_id, self._ask(record, tests, where), problem, record, self._stops()
        )

    def _plus(self, record: Json, where: str) -> Problem:
        return plus_problem(record, where, "mbpp", base_only=True)

    def _plus_ask(self, record: Json, where: str) -> Ask:
        prompt = text_field(record, "prompt", where).strip() + "\n"
        if self.style == "instruct":
            return code_ask(prompt)
        asserted = str(record.get("assertion") or "")
        tests = [line for line in asserted.splitlines() if line.startswith("assert")]
        if not tests:
            return Ask(text=prompt)
        # its prompt is a docstring of the text and one assertion
        lines = prompt.strip().strip('"').strip().splitlines()
        text = "\n".join(line for line in lines if not line.startswith("assert"))
        return _base_ask(text, tests)

    def _ask(self, record: Json, tests: Sequence[str], where: str) -> Ask:
        text = record.get("prompt") or text_field(record, "text", where)
        if (
            self.style == "instruct"
        ):  # EvalPlus's prompt of this task: a docstring with one assertion
            return code_ask(f'"""\n{text}\n{tests[0]}\n"""\n')
        return _base_ask(text, tests)

    def _stops(self) -> tuple[str, ...]:
        return (*BASE_STOPS, "```", '\n"""', "\nassert") if self.style == "base" else CHAT_STOPS

    def program(self, task: Task, answer: str) -> str:
        """Sanitised, which takes off a fence that the model opened itself."""
        return sanitise(untabbed(answer), str(task.record["entry_point"]))

    def harness_lines(self, task: Task, answers: Sequence[str]) -> list[Json]:
        """EvalPlus's: ``task_id`` and the whole ``solution``."""
        return [{"task_id": task.id, "solution": self.program(task, answer)} for answer in answers]


class MbppPlus(Mbpp):
    """EvalPlus's inputs as well."""

    name, title = "mbpp_plus", "MBPP+"
    file_names = ("MbppPlus-v0.2.0", "MbppPlus")
    cpu_seconds = 60

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        if "plus_input" not in record:
            raise DataError(
                f"{where}: no field 'plus_input'; give EvalPlus's MbppPlus.jsonl, not the hub's table."
            )
        return super().task(record, where)

    def _plus(self, record: Json, where: str) -> Problem:
        return plus_problem(record, where, "mbpp")


def _base_ask(text: str, tests: Sequence[str]) -> Ask:
    """The public recipe's prompt for base models."""
    shown = "\n".join(tests[:3])
    return Ask(text=f"{text}\nThe code should pass these tests:\n\n{shown}\n\n{PREFIX}")


def called_functions(code: str, tests: Sequence[str]) -> tuple[str, ...]:
    """Functions of ``code`` that ``tests`` call, the first called one first."""
    defined = {
        node.name
        for node in ast.parse(code).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    called: dict[str, None] = {}
    for test in tests:
        for node in ast.walk(ast.parse(test)):
            if isinstance(node, ast.Name) and node.id in defined:
                called.setdefault(node.id)
    return tuple(called)
