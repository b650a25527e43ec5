"""Lines of RL problems: read back as written, refused with their place where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.rl.problems import RlProblem, of_line, read_problems
from megatron_dream.sandbox import Problem, ProblemError
from megatron_dream.sandbox.formats import value_of

FUNCTION = Problem("f", "function", tests="assert f(1) == 2", functions=("f",), reference="f = abs")
STDIN = Problem("s", "stdin", cases=(("1\n", "2\n"),))
LINE: dict[str, Any] = json.loads(RlProblem("f", "function", "Write f.", FUNCTION).to_line())

_text = st.text(st.characters(exclude_categories=["Cs"]))
_named = _text.filter(bool)
_messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "assistant"]), "content": _text})
).map(lambda before: [*before, {"role": "user", "content": "last"}])
_function = st.builds(
    lambda name, tests, names, prompt, reference: Problem(
        name, "function", prompt, tests, tuple(names), reference=reference
    ),
    _text,
    _text,
    st.lists(_text, min_size=1),
    _text,
    st.none() | _text,
)
_stdin = st.builds(
    lambda name, cases: Problem(name, "stdin", cases=tuple(cases)),
    _text,
    st.lists(st.tuples(_text, _text), min_size=1),
)
_answer = _text | st.lists(st.integers()) | st.dictionaries(_text, st.booleans())


@given(
    st.tuples(st.just("function"), _function, st.none())
    | st.tuples(st.just("stdin"), _stdin, st.none())
    | st.tuples(st.just("output"), st.none(), _answer),
    _named,
    _named | _messages,
    _text,
    st.none() | st.floats(0, 1),
)
def test_what_is_written_is_read_back(
    what: tuple[Any, Any, Any], name: str, prompt: Any, source: str, rate: float | None
) -> None:
    kind, problem, answer = what
    before = RlProblem(name, kind, prompt, problem, answer, source, rate)
    line = before.to_line()
    assert line.count("\n") == 1
    assert of_line(json.loads(line), "here") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "'id'"),
        ({"id": 3}, "'id'"),
        ({"source": 3}, "'source'"),
        ({"kind": "functions"}, "function, stdin, output"),
        ({"kind": None}, "'kind'"),
        ({"prompt": ""}, "'prompt'"),
        ({"prompt": []}, "'prompt'"),
        ({"prompt": [{"role": "user"}]}, "'prompt'"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "the user's"),
        ({"problem": None}, "'problem'"),
        ({"problem": {"task_id": "f"}}, "field 'problem': field 'test'"),
        ({"kind": "stdin"}, "kind function, field 'kind' says stdin"),
        ({"kind": "output"}, "'answer'"),
        ({"kind": "output", "answer": 3}, "'answer'"),
        ({"solve_rate": 1.5}, "'solve_rate'"),
        ({"solve_rate": True}, "'solve_rate'"),
        ({"solve_rate": "1"}, "'solve_rate'"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=f"there, line 3.*{words}"):
        of_line({**LINE, **change}, "there, line 3")


def test_a_file_is_read_and_its_second_of_an_id_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    problems = [
        RlProblem("a", "function", "f", FUNCTION),
        RlProblem("b", "stdin", "s", STDIN, solve_rate=0.25),
    ]
    path.write_text("".join(problem.to_line() for problem in problems))
    assert list(read_problems(path)) == problems
    path.write_text(path.read_text() + "\n" + problems[0].to_line())
    with pytest.raises(ProblemError, match=r"p\.jsonl, line 4.*'id'.*twice"):
        list(read_problems(path))


@pytest.mark.parametrize(
    ("answer", "response", "is_right"),
    [
        ({"output": [1, 2]}, '{"output": [1, 2]}', True),
        ({"output": "(1, 2)"}, "[1, 2]", True),
        ({"output": "{(1, 2): 3}"}, '{"output": "{(1, 2): 3}"}', True),
        ({"input": "'abc', 2"}, '```json\n{"input": "\'abc\', 2"}\n```', True),
        ({"output": "hello"}, '{"output": "hello "}', True),
        ({"output": "None"}, '{"output": null}', True),
        ({"a": 1}, '{"a": 1}', True),
        ([1], "[1]", True),
        ("7", "7.0", True),
        ({"output": [1, 2]}, '{"output": [2, 1]}', False),
        ({"output": "hello"}, "hello", False),
    ],
)
def test_what_is_wanted_compares_with_what_responses_hold(
    answer: Any, response: str, is_right: bool
) -> None:
    assert (value_of(response) == RlProblem("o", "output", "?", answer=answer).wanted()) is is_right


def test_a_string_is_one_message_of_the_users() -> None:
    assert RlProblem("a", "output", "Why?", answer="1").messages() == [
        {"role": "user", "content": "Why?"}
    ]
    messages = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Why?"}]
    problem = RlProblem("a", "output", messages, answer="1")
    assert problem.messages() == messages and problem.prompt_text() == "Be.\nWhy?"


def test_a_program_stands_behind_what_the_prompt_gives() -> None:
    given = Problem("f", prompt="from typing import List\n", tests="", functions=("Solution.f",))
    program = RlProblem("f", "function", "?", given).program("def f(x: List): pass")
    assert program == "from typing import List\ndef f(x: List): pass"
    assert RlProblem("s", "stdin", "?", STDIN).program("print(1)") == "print(1)"
