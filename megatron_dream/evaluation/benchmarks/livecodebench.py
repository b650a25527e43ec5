"""LiveCodeBench, code generation, contests of October 2024 to May 2025 (the paper's window).

Its private tests are pickled text inside compressed base64. Unpickling can run code, so this reads a
string from the pickle and refuses everything else.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import pickle
import zlib
from collections.abc import Sequence
from typing import Any

from ...errors import DataError
from ...sandbox import Problem
from .base import Ask, Benchmark, Json, Task, text_field
from .extract import last_block

FIRST, LAST = datetime.date(2024, 10, 1), datetime.date(2025, 5, 31)
_STARRED = ("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
            "statistics", "itertools", "functools", "operator", "io", "sys", "json")  # fmt: skip
# LiveCodeBench's import_string (lcb_runner/evaluation/testing_util.py): starter code names List unimported.
PRELUDE = "\n".join(
    (
        *(f"from {name} import *" for name in (*_STARRED, "builtins", "typing")),
        *(f"import {name}" for name in _STARRED),
        "sys.setrecursionlimit(50000)",
    )
)
_LARGEST = 1 << 30  # bytes of a task's tests, unpacked
_CASE_SECONDS = 6.0  # as its own evaluator gives, which counts wall clock
_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code "
    "within delimiters."
)
_PLAIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on "
    "the sample inputs). Enclose your code within delimiters as follows. Ensure that when the python "
    "program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)
_OPENING = (
    "You will be given a question (problem specification) and will generate a correct Python program that "
    "matches the specification and passes all tests. You will NOT return anything except for the program."
    "\n\n"
)


class LiveCodeBench(Benchmark):
    """Programs that read standard input, and methods of ``Solution``."""

    name, title = "livecodebench", "LiveCodeBench 2410-2505"
    file_names = ("livecodebench",)
    harness_suffix = ".json"
    cpu_seconds = 60  # of a case of a script, and of all of a method's cases together
    styles = ("instruct",)

    def is_asked(self, record: Json) -> bool:
        """Whether its contest falls into the window."""
        try:
            day = datetime.datetime.fromisoformat(str(record.get("contest_date"))).date()
        except ValueError:
            raise DataError(
                f"{record.get('question_id')}: contest_date {record.get('contest_date')!r} is no date."
            ) from None
        return FIRST <= day <= LAST

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        name = text_field(record, "question_id", where)
        content = text_field(record, "question_content", where)
        starter = record.get("starter_code") or ""
        cases = [*_public_tests(record, where), *_private_tests(record, where)]
        problem = _problem(name, cases, record, where)
        message = {"role": "user", "content": question_prompt(content, starter)}
        return Task(name, Ask(messages=(message,)), problem, record)

    def program(self, task: Task, answer: str) -> str:
        """The last fenced block, behind the imports that the benchmark puts before every program."""
        block = last_block(answer)
        if not block.strip():
            return ""
        functions = task.problem.functions if task.problem is not None else ()
        if functions and "class Solution" not in block:  # its evaluator takes a bare function too
            method = functions[0].rpartition(".")[2]
            block += f"\n\nclass Solution:\n    {method} = staticmethod({method})\n"
        return f"{PRELUDE}\n{block}"

    def harness_lines(self, task: Task, answers: Sequence[str]) -> list[Json]:
        """What its custom evaluator reads."""
        return [{"question_id": task.id, "code_list": [last_block(a) for a in answers]}]

    def harness_text(self, lines: Sequence[Json]) -> str:
        """One list."""
        return json.dumps(list(lines), indent=1) + "\n"


def question_prompt(content: str, starter: str) -> str:
    """The public recipe's message (LiveCodeBench's words for Qwen models)."""
    prompt = f"{_OPENING}Question:\n{content}\n\n"
    if starter:
        return f"{prompt}{_STARTER}\n```python\n{starter}\n```\n\n"
    return f"{prompt}{_PLAIN}\n\n```python\n# YOUR CODE HERE\n```\n\n"


def _problem(name: str, cases: list[Json], record: Json, where: str) -> Problem:
    kinds = {case.get("testtype") for case in cases}
    if kinds == {"stdin"}:
        pairs = tuple((str(case["input"]), str(case["output"])) for case in cases)
        return Problem(
            name, "stdin", cases=pairs, compares_numbers=True, case_seconds=_CASE_SECONDS
        )
    if kinds != {"functional"}:
        raise DataError(f"{where}: tests of the kinds {sorted(map(str, kinds))}, one is expected.")
    try:
        method = json.loads(record.get("metadata") or "{}")["func_name"]
        calls = [
            ([json.loads(line) for line in case["input"].split("\n") if line.strip()],
             json.loads(case["output"]))
            for case in cases
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: its functional tests are not readable ({error!r}).") from None
    # a tuple passes for a list where it is the whole answer, as the benchmark's checker has it
    tests = (
        "inf, nan = float('inf'), float('nan')\n"
        f"_calls = {calls!r}\n"
        "def _plain(value):\n"
        "    return list(value) if isinstance(value, tuple) else value\n"
        "def test_calls():\n"
        "    for number, (arguments, wanted) in enumerate(_calls):\n"
        f"        found = Solution().{method}(*arguments)\n"
        "        assert _plain(found) == wanted, f'case {number}'\n"
    )
    return Problem(name, "function", tests=tests, functions=(f"Solution.{method}",))


def _public_tests(record: Json, where: str) -> list[Json]:
    return _cases(record.get("public_test_cases") or "[]", where)


def _private_tests(record: Json, where: str) -> list[Json]:
    text = record.get("private_test_cases") or "[]"
    if isinstance(text, str) and not text.lstrip().startswith("["):
        try:
            unpacker = zlib.decompressobj()
            packed = unpacker.decompress(base64.b64decode(text.strip(), validate=True), _LARGEST)
            text = _Strings(io.BytesIO(packed)).load()
        except Exception as error:  # pickle promises no kind of exception for damaged input
            raise DataError(
                f"{where}: private_test_cases are not readable ({error!r}); fetch the file again."
            ) from None
    return _cases(text, where)


class _Strings(pickle.Unpickler):
    """Reads strings; what a pickle would import is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, text was expected")


def _cases(text: Any, where: str) -> list[Json]:
    try:
        cases = json.loads(text) if isinstance(text, str) else text
        if all({"input", "output", "testtype"} <= set(case) for case in cases):
            return list(cases)
    except (ValueError, TypeError):
        pass
    raise DataError(f"{where}: its tests are no list of input, output and testtype.")
