"""Fences, questions for code, and what of an answer is plainly Python."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.data.sft.code_text import (
    asks_for_code,
    fences_of,
    has_code,
    python_sources,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no fence", []),
        ("```python\nx = 1\n```", [("python", "x = 1\n", True)]),
        ("a\n~~~ Py title\nx\n~~~~\nb", [("py", "x\n", True)]),
        ("````md\n```\ninner\n```\n````", [("md", "```\ninner\n```\n", True)]),
        ("```\na\n```\n```js\nb", [("", "a\n", True), ("js", "b\n", False)]),
        ("1. one\n   ```python\n   if x:\n       y\n   ```", [("python", "if x:\n    y\n", True)]),
        ("> ```python\n> x\n> ```", [("python", "x\n", True)]),
        ("```python\n```js\n```", [("python", "```js\n", True)]),  # a closing fence has no name
        (
            "```python\n        ```\n```",
            [("python", "        ```\n", True)],
        ),  # too far to the right
        ("```a`b```", []),  # code between backticks
        ("```{.python .numberLines}\nx\n```", [("python", "x\n", True)]),
        ("```python\r\nx\r\n```\r\n", [("python", "x\r\n", True)]),
        ("```python\na\x0cb\n```", [("python", "a\x0cb\n", True)]),
    ],
)
def test_fences(text, expected):
    assert [(f.info, f.text, f.is_closed) for f in fences_of(text)] == expected


@given(st.lists(st.text("ab`~ \n", max_size=12), max_size=4))
def test_only_the_last_fence_can_be_open(parts):
    found = fences_of("```".join(parts))
    assert all(fence.is_closed for fence in found[:-1])


@pytest.mark.parametrize(
    ("question", "asks"),
    [
        ("Write a function that adds two numbers.", True),
        ("Please implement quicksort in Rust", True),
        ("Can you fix the bug in this script?", True),
        ('from math import pi\n\n\ndef area(r):\n    """Area of a circle."""\n', True),
        ("What does this function do?", False),
        ("Explain the difference between a list and a tuple in Python.", False),
        ("Write a poem about the sea. I like Python.", False),
        ("Hello!", False),
    ],
)
def test_asking_for_code(question, asks):
    assert asks_for_code(question) is asks


@pytest.mark.parametrize(
    ("response", "has"),
    [
        ("Sorry, I cannot do that.", False),
        (
            "First sort the list, then take the middle one. For example, of three numbers the second.",
            False,
        ),
        ("Use `sorted(x)[len(x) // 2]`.", True),
        ("```\nx\n```", True),
        ("def f(x):\n    return x", True),
        ("    return x", True),
        ("total = a + b", True),
        ("SELECT name FROM people", True),
        ("int main() {", True),
        ("<p>hello</p>", True),
    ],
)
def test_having_code(response, has):
    assert has_code(response, fences_of(response)) is has


@pytest.mark.parametrize(
    ("question", "response", "expected"),
    [
        ("q", "Here:\n```python\nx\n```\nand\n```js\ny\n```\n", ["x\n"]),
        ("q", "```python\n>>> f(1)\n2\n```", []),  # a session
        ("q", "```python\nx", []),  # the rule unclosed_fence drops it
        ("q", "def f():\n    pass\n", ["def f():\n    pass\n"]),
        ("q", "# note\nimport os\nx = os\n", ["# note\nimport os\nx = os\n"]),
        ("q", "def f():\n    pass\n\nThis function does nothing.", []),  # prose: not plainly Python
        ("q", "import the module and call it", []),
        ("def f(x):\n    'doc'\n", "    return x\n", ["def f(x):\n    'doc'\n    return x\n"]),
        ("Complete this.", "    return x\n", []),
    ],
)
def test_what_is_plainly_python(question, response, expected):
    assert python_sources(question, response, fences_of(response)) == expected


def test_all_of_humaneval_asks_for_code_and_has_it(shared_data):
    with gzip.open(shared_data / "HumanEval.jsonl.gz", "rt") as stream:
        problems = [json.loads(line) for line in stream]
    for problem in problems:
        prompt, solution = problem["prompt"], problem["canonical_solution"]
        assert asks_for_code(prompt), prompt
        assert has_code(solution, fences_of(solution)), solution
    judged = [python_sources(p["prompt"], p["canonical_solution"], []) for p in problems]
    assert sum(map(len, judged)) > 150
