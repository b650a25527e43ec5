"""KodCode-V1 (KodCode/KodCode-V1): a question, a solution, and a pytest module that imports ``solution``.

Fields as in the dataset cards of KodCode-V1 and of copies of it (huggingface.co/datasets/Blueyyds/
KodCode-7K-RL: version, style, subset, question_id, question, solution, test, test_info with
function_name, function_declaration, parameter_list and docstring, gpt_pass_percentage ...); the
repository KodCode-AI/kodcode calls the tests ``test_code`` on the way there. Tests begin ``from solution
import f``. Instruct questions do not always name the function, hence its declaration in the prompt. Tests
that import pytest get a stand-in (pytest_stand_in.py), since the sandbox has the standard library only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ....sandbox import Problem, ProblemError
from ...problems import RlProblem
from ..testcode import called_names
from .schema import Fields, Schema, program_text, text_of
from .wording import ask_for_functions

_PYTEST = re.compile(r"^\s*(?:import|from) pytest\b", re.MULTILINE)
_STAND_IN = Path(__file__).with_name("pytest_stand_in.py").read_text(encoding="utf-8")


def _convert(fields: Fields, where: str) -> RlProblem:
    name = f"kodcode/{text_of(fields, 'question_id', where)}"
    tests = text_of(fields, "test" if fields.get("test") is not None else "test_code", where)
    infos = _infos(fields.get("test_info"), where)
    functions = [info["function_name"] for info in infos] or list(called_names(tests))
    if not functions:
        raise ProblemError(
            f"{where}: field 'test_info' names no function and field 'test' imports none from solution."
        )
    declarations = [str(info.get("function_declaration") or "") for info in infos]
    question = text_of(fields, "question", where)
    solution = text_of(fields, "solution", where, "")
    problem = Problem(
        name,
        "function",
        tests=_with_stand_in(tests),
        functions=tuple(functions),
        reference=program_text(solution) if solution.strip() else None,
    )
    subset = text_of(fields, "subset", where, "")
    prompt = ask_for_functions(question, functions, declarations)
    return RlProblem(name, "function", prompt, problem, source=f"kodcode/{subset}".rstrip("/"))


def _with_stand_in(tests: str) -> str:
    return f"{_STAND_IN}\n\n{tests}" if _PYTEST.search(tests) else tests


def _infos(value: Any, where: str) -> list[dict[str, Any]]:
    infos = value if isinstance(value, list) else [value] if value else []
    for info in infos:
        if not isinstance(info, dict) or not isinstance(info.get("function_name"), str):
            raise ProblemError(
                f"{where}: field 'test_info' is no list of objects with function_name; mend or remove it."
            )
    return infos


SCHEMA = Schema(
    "kodcode",
    ("question_id", "question"),
    ("test", "test_code", "test_info", "solution", "subset"),
    _convert,
)
