"""Problems from lines, what their tests may use besides, and how outputs are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.sandbox.problem import ProblemError, helpers_of, problem_of, read_lines
from megatron_dream.sandbox.slot import lines_of

LINE = {
    "task_id": "T/1",
    "prompt": "import math\nK = 3\n\ndef help(x):\n    return x + K\n\n\ndef f(x):\n    '''Doc.'''\n",
    "entry_point": "f",
    "test": "def check(candidate):\n    assert candidate(1) == help(1)\n",
    "canonical_solution": "    return help(x)\n",
}


def test_humanevals_fields() -> None:
    problem = problem_of(LINE, "here")
    assert problem.kind == "function" and problem.functions == ("f",)
    assert problem.reference == LINE["canonical_solution"]


def test_helpers_are_what_stands_beside_the_function() -> None:
    helpers = helpers_of(problem_of(LINE, "here"))
    names: dict[str, Any] = {}
    exec(helpers, names)
    assert names["help"](1) == 4 and "f" not in names


@pytest.mark.parametrize("prompt", ["Write a function.", "def f(x):", "", "\0"])
def test_a_prompt_that_is_no_program_has_no_helpers(prompt: str) -> None:
    assert helpers_of(problem_of({**LINE, "prompt": prompt}, "here")).count("def") == 0


def test_inputs_and_outputs() -> None:
    problem = problem_of({"task_id": "s", "inputs": ["1", "2"], "outputs": ["a", "b"]}, "here")
    assert problem.kind == "stdin" and problem.cases == (("1", "a"), ("2", "b"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task_id": None}, "'task_id'"),
        ({"test": 3}, "'test'"),
        ({"entry_point": None}, "'entry_point'"),
        ({"functions": "f"}, "'functions'"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"inputs": [], "outputs": []}, "at least one"),
        ({"inputs": "1", "outputs": ["2"]}, "'inputs'"),
        ({"inputs": ["1"]}, "1 inputs and 0"),
        ({"inputs": ["1"], "outputs": [2]}, "'outputs'"),
    ],
)
def test_a_broken_line_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match="P.jsonl, line 7") as caught:
        problem_of({**LINE, **change}, "P.jsonl, line 7")
    assert words in str(caught.value)


def test_lines_are_numbered(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(LINE) + "\n\n[1]\n", encoding="utf-8")
    with pytest.raises(ProblemError, match=r"p\.jsonl, line 3: no object"):
        list(read_lines(file))
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ProblemError, match=r"line 1: no JSON"):
        list(read_lines(file))


@pytest.mark.parametrize(
    ("a", "b", "is_equal"),
    [
        ("1\n2\n", "1\n2", True),
        ("1  \r\n2\n\n\n", "1\n2", True),
        (" 1", "1", False),
        ("1 2", "1  2", False),
        ("\n1", "1", False),
        ("", "\n", True),
    ],
)
def test_outputs_are_compared_by_lines(a: str, b: str, is_equal: bool) -> None:
    assert (lines_of(a) == lines_of(b)) == is_equal
