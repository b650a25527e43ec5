"""Programs and values of responses."""

from __future__ import annotations

import functools
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.sandbox.formats import fenced_blocks, normalised, program_of, value_of


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


@pytest.mark.parametrize(
    "answer",
    [
        "{0x" + "f" * 5000 + ": 1}",
        "0x" + "f" * 5000,
        10**4000,
        "1+2j",
        "{1j: ...}",
        "[...]",
        "b'a'",
        [[["[" * 99 + "]" * 99]]],
        functools.reduce(lambda inner, _: [inner], range(101), 1),
    ],
    ids=lambda answer: str(answer)[:12] if isinstance(answer, str) else type(answer).__name__,
)
def test_odd_values_are_none(answer: object) -> None:
    assert value_of(json.dumps({"output": answer})) is None


def test_dots_alone_are_text() -> None:
    assert value_of('{"output": "..."}') == ("value", "...")


_literals = st.one_of(
    st.sampled_from(
        [
            "{0x" + "f" * 5000 + ": 1}",
            "...",
            "1j",
            "b''",
            "{1: {2}}",
            "{{1}}",
            "[" * 300,
            "nan",
            "1e999",
        ]
    ),
    st.text(alphabet="[](){},:'\"-.0123456789exjTrueNone ", max_size=30),
    st.integers().map(repr),
    st.integers(min_value=1, max_value=90).map(lambda n: "(" * n + "1" + ",)" * n),
)
_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _literals | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["output", "a"]) | _literals, inner, max_size=3)
        | inner.map(json.dumps)
    ),
    max_leaves=15,
)


@given(_json_values, st.sampled_from(["{}", "so: {}", "```json\n{}\n```", '{{"output": {}}}']))
def test_any_value_is_taken_and_is_itself(answer: object, form: str) -> None:
    text = form.format(json.dumps(answer))
    found = value_of(text)
    assert found is None or found == value_of(text)
    repr(found)


@given(st.text(alphabet=string.punctuation + "0123456789je \n", max_size=60))
def test_any_literal_like_text_is_taken(text: str) -> None:
    value_of(text)
    value_of(json.dumps(text))
