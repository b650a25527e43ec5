"""DeepCoder (agentica-org/DeepCoder-Preview-Dataset): lcbv5, primeintellect, taco, codeforces.

Fields problem, tests (JSON), starter_code, solutions, metadata, as read by rllm-org/rllm
(examples/deepcoder: prepare_deepcoder_data), LLM360/Reasoning360 (data_preprocess/codegen/
primeintellect.py, livecodebench.py) and the tinker cookbook (recipes/code_rl). Forms of ``tests``:

- a list of ``{"type": "function_call", "fn_name", "input": [arguments], "output": [value]}`` or
  ``{"type": "stdin_stdout", "input": text, "output": text}`` (primeintellect);
- a list of ``{"testtype": "functional", "input": one JSON value a line, "output": JSON}``, the name in
  ``metadata["func_name"]``, a method of ``Solution``; or ``"stdin"``, ``"stdin_stdout"`` (lcbv5, codeforces);
- ``{"inputs", "outputs"}``, with ``fn_name`` where they are calls (taco); texts may be lists of lines.

Expected values come from JSON, so that tests take tuples for lists, and floats to 1e-5 (Reasoning360's
taco.py). Those of taco stand in a list of one or do not, by where a task is from: either is taken, as
rllm does. There are no ids: a record is named by a digest of problem and tests.
"""

from __future__ import annotations

from typing import Any

from ....sandbox import Problem, ProblemError
from ...problems import RlProblem
from .schema import (
    Fields,
    Schema,
    digest,
    json_of,
    object_of,
    paired,
    program_text,
    stdin_text,
    text_of,
    value_of_text,
)
from .wording import ask_for_functions, ask_for_script, with_starter

SAME = """\
def same(got, wanted):
    if isinstance(wanted, float) and isinstance(got, (int, float)):
        return abs(got - wanted) <= 1e-5 * max(1, abs(wanted))
    if isinstance(wanted, list) and isinstance(got, (list, tuple)):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    return got == wanted


def same_or_only(got, wanted):
    return same(got, wanted) or len(wanted) == 1 and same(got, wanted[0])


"""
_CALLS, _STDIN = ("function_call", "functional"), ("stdin_stdout", "stdin")


def _convert(fields: Fields, where: str) -> RlProblem:
    question = text_of(fields, "problem", where)
    starter = text_of(fields, "starter_code", where, "")
    tests = fields.get("tests")
    raw = tests if isinstance(tests, str) else repr(tests)
    if isinstance(tests, str):
        tests = json_of(tests, "tests", where)
    name = f"deepcoder/{digest(question, raw)}"
    reference = _reference(fields.get("solutions"))
    function, cases = _cases(tests, object_of(fields, "metadata", where), where)
    asked = with_starter(question, starter)
    if function is None:
        pairs = tuple((stdin_text(given), stdin_text(wanted)) for given, wanted in cases)
        problem = Problem(name, "stdin", cases=pairs, reference=reference)
        return RlProblem(name, "stdin", ask_for_script(asked), problem, source="deepcoder")
    is_method = "class Solution" in starter
    called = f"Solution().{function}" if is_method else function
    compare = "same_or_only" if isinstance(tests, dict) else "same"
    lines = [
        f"assert {compare if isinstance(b, list) else 'same'}({called}({_arguments(a)}), {b!r})\n"
        for a, b in cases
    ]
    functions = (f"Solution.{function}" if is_method else function,)
    problem = Problem(
        name, "function", tests=SAME + "".join(lines), functions=functions, reference=reference
    )
    prompt = ask_for_functions(asked, functions)
    return RlProblem(name, "function", prompt, problem, source="deepcoder")


def _arguments(values: list[Any]) -> str:
    return ", ".join(map(repr, values))


def _reference(solutions: Any) -> str | None:
    first = solutions[0] if isinstance(solutions, list) and solutions else solutions
    return program_text(first) if isinstance(first, str) and first.strip() else None


def _cases(tests: Any, metadata: Fields, where: str) -> tuple[str | None, list[tuple[Any, Any]]]:
    """The called function, None for scripts, and pairs of input (a list of arguments) and output."""
    if isinstance(tests, dict):
        pairs = paired(tests.get("inputs"), tests.get("outputs"), "tests", where)
        function = tests.get("fn_name")
        if function is None:
            return None, pairs
        return _name(function, where), [(_list(a), b) for a, b in pairs]
    if not isinstance(tests, list) or not tests or not all(isinstance(t, dict) for t in tests):
        raise ProblemError(
            f"{where}: field 'tests' is no list of tests; mend or remove the record."
        )
    kinds = {str(test.get("type") or test.get("testtype")) for test in tests}
    if kinds <= set(_STDIN):
        return None, [(_given(t, "input", where), _given(t, "output", where)) for t in tests]
    if kinds == {"function_call"}:
        names = {_name(test.get("fn_name"), where) for test in tests}
        if len(names) == 1:
            cases = [(_list(t.get("input")), _unwrapped(t.get("output"))) for t in tests]
            return names.pop(), cases
    if kinds == {"functional"}:
        name = metadata.get("func_name") or object_of(tests[0], "metadata", where).get("func_name")
        return _name(name, where), [_functional(test, where) for test in tests]
    raise ProblemError(
        f"{where}: field 'tests' has the types {', '.join(sorted(kinds))}; one of "
        f"{', '.join(_CALLS + _STDIN)} for all, and one function, is known."
    )


def _functional(test: Fields, where: str) -> tuple[list[Any], Any]:
    given, wanted = _given(test, "input", where), _given(test, "output", where)
    lines = [line for line in stdin_text(given).split("\n") if line.strip()]
    return [value_of_text(line) for line in lines], (
        value_of_text(wanted) if isinstance(wanted, str) else wanted
    )


def _given(test: Fields, name: str, where: str) -> Any:
    if test.get(name) is None:
        raise ProblemError(f"{where}: field 'tests' has a test without {name!r}.")
    return test[name]


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise ProblemError(f"{where}: field 'tests' calls no function by name; mend or remove it.")
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _unwrapped(value: Any) -> Any:
    """Expected values stand in a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


SCHEMA = Schema(
    "deepcoder", ("problem", "tests"), ("starter_code", "solutions", "metadata"), _convert
)
