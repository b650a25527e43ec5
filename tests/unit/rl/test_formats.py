"""Programs and values of responses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.rl.formats import fenced_blocks, normalised, program_of, value_of


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("words\n```\na\n```\nmore\n```py\nb\n```\n", "a\n"),
        ("  ```python\n  x\n  ```  ", "  x\n"),
        ("```python\nx = '```'\ny\n```", "x = '```'\ny\n"),
        ("```python\n```", ""),
        ("```python\nnever closed", None),
        ("no block", None),
        ("```x = 1```", None),
        ("", None),
    ],
)
def test_the_first_closed_block_is_the_program(text: str, program: str | None) -> None:
    assert program_of(text) == program


def test_exactly_one_block_can_be_asked_for() -> None:
    two = "```\na\n```\n```\nb\n```\n"
    assert fenced_blocks(two) == ["a\n", "b\n"]
    assert program_of(two) == "a\n" and program_of(two, exactly_one=True) is None
    assert program_of("```\na\n```", exactly_one=True) == "a\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"output": [1, 2]}', [1, 2]),
        ('```json\n{"output": "x"}\n```', "x"),
        ('{"input": 3}', 3),
        ('I think {"output": 1} no, {"output": 2}.', 2),
        ('{"a": {"output": 5}, "output": 6}', 6),
        ("[1, 2]", (1, 2)),
        ("3.0", 3),
        ('"[1, 2]"', [1, 2]),
        ('{"output": " x "}', "x"),
        ('{"other": 1}', {"other": 1}),
    ],
)
def test_values(text: str, wanted: object) -> None:
    assert value_of(text) == ("value", normalised(wanted))


@pytest.mark.parametrize("text", ["", "nothing", "{", '{"output": }', "```\n\n```"])
def test_no_value(text: str) -> None:
    assert value_of(text) is None


@pytest.mark.parametrize(
    ("a", "b"), [(True, 1), (None, 0), ("a", ["a"]), ([1], [2]), ({}, []), (1, 1.0001), ("1a", 1)]
)
def test_what_differs_stays_apart(a: object, b: object) -> None:
    assert normalised(a) != normalised(b)


def test_null_is_a_value() -> None:
    assert value_of('{"output": null}') == ("value", normalised(None))


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    program_of(text)
    value_of(text)
    fenced_blocks(text + "\n```\n" + text)
