"""Records of the published shapes become problems; broken ones are named with their field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from megatron_dream.rl.curation.schemas import SCHEMAS, Unsuitable
from megatron_dream.rl.curation.schemas.wording import question_of
from megatron_dream.rl.curation.testcode import num_checks
from megatron_dream.rl.problems import RlProblem, of_line
from megatron_dream.sandbox import ProblemError

KODCODE: dict[str, Any] = {
    "version": "v1.0",
    "style": "instruct",
    "subset": "Leetcode",
    "question_id": "Leetcode_7_I",
    "question": "Add two numbers.",
    "solution": "def add(a, b):\n    return a + b\n",
    "test": "from solution import add\n\ndef test_add():\n    assert add(1, 2) == 3\n",
    "test_info": [
        {
            "docstring": "Adds.",
            "function_declaration": "def add(a, b):",
            "function_name": "add",
            "parameter_list": "(a, b)",
        }
    ],
    "gpt_pass_percentage": 0.5,
}
CALLS = [
    {"type": "function_call", "fn_name": "add", "input": [1, k], "output": [1 + k]}
    for k in range(3)
]
SCRIPTS = [{"type": "stdin_stdout", "input": "1 2\n", "output": "3\n"}]
FUNCTIONAL = [
    {"input": '[1, 2]\n"a"', "output": "true", "testtype": "functional", "metadata": {}},
    {"input": '[]\n"b"', "output": "false", "testtype": "functional", "metadata": {}},
]
DEEPCODER: dict[str, Any] = {"problem": "Add.", "tests": json.dumps(CALLS), "solutions": []}
GURU: dict[str, Any] = {
    "data_source": "codegen__leetcode2k",
    "prompt": [{"role": "user", "content": "Write `add`."}],
    "ability": "codegen",
    "apply_chat_template": True,
    "reward_model": {
        "style": "rule",
        "ground_truth": json.dumps(
            {
                "functional": "def check(candidate):\n    assert candidate(a=1) == 2\n"
                "    assert candidate(a=2) == 3\n\n\ncheck(Solution().add)"
            }
        ),
    },
    "extra_info": {
        "split": "train",
        "index": 3,
        "prefix": "from typing import *\n",
        "reference": "class Solution:\n    def add(self, a: Optional[int]):\n        return a + 1\n",
    },
}
CODEIO: dict[str, Any] = {
    "data_source": "simulation__codeio",
    "prompt": [{"role": "user", "content": "Predict the output."}],
    "reward_model": {"ground_truth": '"output": {"result": 42}', "style": "rule"},
    "extra_info": {"index": 1},
}


def convert(schema: str, fields: dict[str, Any]) -> RlProblem:
    problem = SCHEMAS[schema].convert(fields, "f.jsonl, line 2")
    assert of_line(json.loads(problem.to_line()), "again") == problem
    return problem


def test_kodcode() -> None:
    problem = convert("kodcode", KODCODE)
    assert problem.id == "kodcode/Leetcode_7_I" and problem.source == "kodcode/Leetcode"
    assert problem.kind == "function" and problem.problem is not None
    assert (
        problem.problem.functions == ("add",) and problem.problem.reference == KODCODE["solution"]
    )
    assert "def add(a, b):" in problem.prompt and "```python" in problem.prompt
    assert question_of(problem.prompt) == KODCODE["question"]
    assert problem.solve_rate is None  # GPT's rate is not that of our candidates


def test_kodcode_by_the_names_of_its_repository() -> None:
    fields = {**KODCODE, "test": None, "test_code": KODCODE["test"], "test_info": None}
    problem = convert("kodcode", fields)
    assert problem.problem is not None and problem.problem.functions == ("add",)


def test_deepcoder_calls_of_primeintellect() -> None:
    problem = convert("deepcoder", {**DEEPCODER, "solutions": ["```python\ndef add(a, b): 0\n```"]})
    assert problem.problem is not None and problem.problem.functions == ("add",)
    assert "assert same(add(1, 2), 3)" in problem.problem.tests
    assert num_checks(problem.problem.tests) == 3
    assert problem.problem.reference == "def add(a, b): 0\n"


def test_deepcoder_scripts() -> None:
    problem = convert("deepcoder", {**DEEPCODER, "tests": SCRIPTS, "solutions": None})
    assert problem.kind == "stdin" and problem.problem is not None
    assert problem.problem.cases == (("1 2\n", "3\n"),) and problem.problem.reference is None
    assert "standard input" in problem.prompt


def test_deepcoder_methods_of_livecodebench() -> None:
    fields = {
        "problem": "Find.",
        "starter_code": "class Solution:\n    def find(self, xs, s):\n        ",
        "tests": json.dumps(FUNCTIONAL),
        "metadata": {"func_name": "find"},
    }
    for metadata in ({"func_name": "find"}, '{"func_name": "find"}'):
        problem = convert("deepcoder", {**fields, "metadata": metadata})
        assert problem.problem is not None and problem.problem.functions == ("Solution.find",)
        assert "assert same(Solution().find([1, 2], 'a'), True)" in problem.problem.tests
        assert "class Solution" in problem.prompt


def test_deepcoder_taco() -> None:
    scripts = {"inputs": [["1", "2"], "3\n"], "outputs": [["3"], 4]}
    problem = convert("deepcoder", {**DEEPCODER, "tests": json.dumps(scripts)})
    assert problem.problem is not None and problem.problem.cases == (("1\n2", "3"), ("3\n", "4"))
    calls = {"fn_name": "add", "inputs": [[1, 2], [[1], 3]], "outputs": [[3], 4]}
    problem = convert("deepcoder", {**DEEPCODER, "tests": json.dumps(calls)})
    assert problem.problem is not None
    assert "assert same_or_only(add(1, 2), [3])" in problem.problem.tests
    assert "assert same(add([1], 3), 4)" in problem.problem.tests


def test_deepcoder_records_are_named_by_their_content() -> None:
    first, again = convert("deepcoder", DEEPCODER), convert("deepcoder", dict(DEEPCODER))
    other = convert("deepcoder", {**DEEPCODER, "problem": "Add them."})
    assert first.id == again.id != other.id


def test_guru_methods() -> None:
    problem = convert("guru", GURU)
    assert problem.problem is not None and problem.problem.functions == ("Solution.add",)
    assert "check(Solution" not in problem.problem.tests
    assert num_checks(problem.problem.tests) == 2
    assert problem.problem.prompt == "from typing import *\n"
    assert "fenced block" in problem.messages()[-1]["content"]
    assert problem.source == "codegen__leetcode2k"


def test_guru_prompts_that_ask_for_a_fence_stay() -> None:
    prompt = [{"role": "user", "content": "Answer in ```python ... ```."}]
    assert convert("guru", {**GURU, "prompt": prompt}).prompt == prompt


def test_guru_scripts_and_older_prompts() -> None:
    truth = json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]})
    fields = {
        **GURU,
        "prompt": [],
        "raw_prompt": "zero",
        "reward_model": {"ground_truth": truth},
        "extra_info": json.dumps({"prompt": "Read a number.", "reference": ""}),
    }
    problem = convert("guru", fields)
    assert problem.kind == "stdin" and problem.problem is not None
    assert problem.problem.cases == (("1\n", "2\n"),) and problem.problem.reference is None
    assert problem.messages()[0]["content"].startswith("Read a number.")


@pytest.mark.parametrize(
    ("truth", "answer"),
    [
        ('"output": {"result": 42}', {"output": {"result": 42}}),
        ('{"input": {"n": 3}}', {"input": {"n": 3}}),
        ("[1, 2]", {"output": [1, 2]}),
        ("(1, 'a')", {"output": "(1, 'a')"}),
        ("{1, 2}", {"output": "{1, 2}"}),
        ("'words'", {"output": "words"}),
        ("plain words", {"output": "plain words"}),
    ],
)
def test_guru_values(truth: str, answer: dict[str, Any]) -> None:
    problem = convert("guru", {**CODEIO, "reward_model": {"ground_truth": truth}})
    assert problem.kind == "output" and problem.answer == answer and problem.problem is None


def test_own() -> None:
    judged = {
        "task_id": "T/1",
        "prompt": "def f(x):\n    '''One more.'''\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        "canonical_solution": "    return x + 1\n",
        "inputs": None,  # as a table has what a row lacks
    }
    problem = convert("own", judged)
    assert problem.id == "T/1" and "One more." in problem.prompt and "`f`" in problem.prompt
    assert convert("own", json.loads(problem.to_line())) == problem
    script = {"task_id": "S/1", "prompt": "Add one.", "inputs": ["1"], "outputs": ["2"]}
    assert convert("own", script).kind == "stdin"


@pytest.mark.parametrize(
    ("schema", "fields", "words"),
    [
        ("kodcode", {**KODCODE, "question": " "}, "'question'"),
        ("kodcode", {**KODCODE, "question_id": 3}, "'question_id'"),
        ("kodcode", {**KODCODE, "test": None}, "'test_code'"),
        ("kodcode", {**KODCODE, "test_info": [{"name": "add"}]}, "'test_info'"),
        ("kodcode", {**KODCODE, "test_info": [], "test": "assert 1"}, "'test_info'"),
        ("deepcoder", {**DEEPCODER, "tests": "[{"}, "'tests' is no JSON"),
        ("deepcoder", {**DEEPCODER, "tests": "[]"}, "'tests'"),
        ("deepcoder", {**DEEPCODER, "tests": [{"type": "odd"}]}, "odd"),
        ("deepcoder", {**DEEPCODER, "tests": [{**CALLS[0], "fn_name": "a b"}]}, "by name"),
        ("deepcoder", {**DEEPCODER, "tests": CALLS + SCRIPTS}, "function_call, stdin_stdout"),
        ("deepcoder", {**DEEPCODER, "tests": [{"type": "stdin_stdout"}]}, "'input'"),
        ("deepcoder", {**DEEPCODER, "tests": {"inputs": ["1"], "outputs": []}}, "1 inputs and 0"),
        ("deepcoder", {**DEEPCODER, "tests": FUNCTIONAL}, "by name"),
        ("guru", {**GURU, "reward_model": None}, "'reward_model'"),
        ("guru", {**GURU, "reward_model": {"ground_truth": "[1]"}}, "ground_truth"),
        (
            "guru",
            {**GURU, "reward_model": {"ground_truth": '{"functional": "assert 1"}'}},
            "no function",
        ),
        ("guru", {**GURU, "prompt": [{"role": "user"}]}, "'prompt'"),
        ("guru", {**GURU, "prompt": None}, "'prompt'"),
        ("guru", {**GURU, "extra_info": "{"}, "'extra_info' is no JSON"),
        ("own", {"task_id": "a", "prompt": "x", "test": 3}, "'test'"),
        ("own", {"task_id": "a", "prompt": "", "inputs": ["1"], "outputs": ["1"]}, "'prompt'"),
        ("own", {"kind": "output", "id": "a", "prompt": "x"}, "'answer'"),
    ],
)
def test_broken_records_are_named(schema: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=f"f.jsonl, line 2.*{words}"):
        SCHEMAS[schema].convert(fields, "f.jsonl, line 2")


@pytest.mark.parametrize("source", ["math__combined", "simulation__cruxeval-i", "logic__barc"])
def test_other_domains_of_guru_are_no_problems(source: str) -> None:
    with pytest.raises(Unsuitable, match=source):
        SCHEMAS["guru"].convert({**GURU, "data_source": source}, "here")


def test_what_is_added_to_a_question_comes_off_again() -> None:
    for schema, fields in (("kodcode", KODCODE), ("deepcoder", {**DEEPCODER, "tests": SCRIPTS})):
        problem = convert(schema, fields)
        assert question_of(problem.prompt_text()) in ("Add two numbers.", "Add.")
    assert question_of("Write Python that defines x.") == "Write Python that defines x."
