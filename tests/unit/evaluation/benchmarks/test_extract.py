"""What of an answer is the program; held against EvalPlus's own sanitiser where it is installed."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.evaluation.benchmarks.extract import (
    first_block,
    last_block,
    longest_code,
    parses,
    sanitise,
    untabbed,
)

PROSE = "Here is how it is done, step by step:\n\nFirst we add.\n"
PROGRAM = (
    "import math\n\ndef helper(x):\n    return math.floor(x)\n\n"
    "def add(a, b):\n    return helper(a + b)\n"
)


def test_prose_around_a_program_is_dropped():
    text = f"{PROSE}{PROGRAM}\nI hope this helps you!\nBye now."
    assert ast.dump(ast.parse(sanitise(text, "add"))) == ast.dump(ast.parse(PROGRAM))


def test_what_the_entry_point_does_not_reach_is_dropped():
    text = PROGRAM + "\ndef other(x):\n    return x\n\nLIMIT = 3\n\nprint(add(1, 2))\n"
    names = [getattr(node, "name", None) for node in ast.parse(sanitise(text, "add")).body]
    assert names == [None, "helper", "add"]
    assert "other" in sanitise(text) and "print" not in sanitise(text)


def test_a_cut_off_last_line_does_not_lose_the_rest():
    assert "def add" in sanitise(PROGRAM + "\ndef broken(x:\n    return", "add")


def test_functions_that_return_nothing_are_no_definitions():
    assert sanitise("def add(a, b):\n    return a\n\ndef note():\n    add.x = 1\n") == (
        "def add(a, b):\n    return a"
    )


def test_the_first_of_two_definitions_stays():
    text = "def add(a, b):\n    return 1\n\ndef add(a, b):\n    return 2\n"
    assert "return 1" in sanitise(text, "add") and "return 2" not in sanitise(text, "add")


def test_without_definitions_the_longest_code_stays():
    assert sanitise("print(1)\nprint(2)\nthis is no code") == "print(1)\nprint(2)"


@given(
    st.lists(
        st.sampled_from(["", "x = 1", "def f():", "    return 1", "a b c", "if x:", "```"]),
        max_size=9,
    )
)
def test_the_longest_run_that_parses_is_found(lines):
    """Against every run of lines, tried one by one."""
    text = "\n".join(lines)
    found = longest_code(text)
    rows = text.split("\n")
    best = max(
        (
            sum(1 for row in rows[i:j] if row.strip())
            for i in range(len(rows))
            for j in range(i + 2, len(rows) + 1)
            if parses("\n".join(rows[i:j]))
        ),
        default=0,
    )
    assert sum(1 for row in found.split("\n") if row.strip()) >= best
    assert parses(found) or found == rows[0]


def test_fenced_blocks():
    text = "a\n```python\nfirst\n```\nb\n```\nsecond\n```\n"
    assert (first_block(text), last_block(text)) == ("first\n", "second")
    assert first_block("```python\nopen") == "open"
    assert (first_block("plain"), last_block("plain"), last_block("```\nopen")) == ("plain", "", "")


def test_a_program_under_much_prose_is_found_in_its_block():
    """More runs than are tried; none that is longer than the program parses."""
    text = "so it goes (\n" * 300 + f"```python\n{PROGRAM}```\n"
    assert "def add" in sanitise(text, "add")


def test_tabs_are_spaces_behind_a_prompt_that_is_indented_by_spaces():
    answer = "    x = a\n\treturn x + b\n"
    assert parses(untabbed("def add(a, b):\n" + answer)) and not parses("def add(a, b):\n" + answer)


ANSWERS = [
    PROGRAM,
    f"{PROSE}{PROGRAM}\nI hope this helps you!\nBye now.",
    PROGRAM + "\ndef other(x):\n    return x\n\nprint(add(1, 2))\n",
    "class A:\n    pass\n\ndef add(a, b):\n    return A()\n",
    "@cache\ndef add(a, b):\n    return a\n",
    "x = y = 1\nadd = lambda a, b: a + x\n",
    "not code at all",
    "",
    "from os import path\nimport sys\ndef add(a, b):\n    for i in (1, 2):\n        return i\n",
    'def add(a, b):\n    """Text.\n\n    >>> add(1, 2)\n    3\n    """\n    return a + b\n\n'
    "if __name__ == '__main__':\n    add(1, 2)\n",
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_evalplus_says_the_same(answer):
    sanitize = pytest.importorskip(
        "evalplus.sanitize", reason="evalplus is in the overlay environment alone"
    ).sanitize
    assert sanitise(answer, "add").split() == sanitize(answer, "add").split()
