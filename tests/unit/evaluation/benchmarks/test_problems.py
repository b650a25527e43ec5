"""Problems of one's own: what is asked, what of an answer is the program, and what is refused."""

import json

import pytest

from megatron_dream.errors import DataError
from megatron_dream.evaluation.benchmarks.registry import benchmark
from megatron_dream.evaluation.harness.settings import published

TESTS = {"task_id": "a", "entry_point": "f", "test": "assert f(1) == helper(1)\n"}
LINE = {"id": "a", "kind": "function", "prompt": "one more", "problem": TESTS}


def tasks_of(folder, line, style="base"):
    (folder / "problems.jsonl").write_text(json.dumps(line) + "\n")
    return benchmark("problems", style).tasks(folder)


def test_both_styles_ask_for_the_same(tmp_path):
    (base,) = tasks_of(tmp_path, LINE)
    assert (base.id, base.ask.text, base.ask.messages) == ("a", "one more", ())
    (chat,) = tasks_of(tmp_path, LINE, "instruct")
    assert chat.ask.messages == ({"role": "user", "content": "one more"},) and chat.ask.text is None
    messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": "one more"}]
    (given,) = tasks_of(tmp_path, {**LINE, "prompt": messages}, "instruct")
    assert list(given.ask.messages) == messages


def test_the_program_is_the_first_closed_fence(tmp_path):
    kind = benchmark("problems", "base")
    helper = "def helper(n):\n    return n + 1\n"
    (task,) = tasks_of(tmp_path, {**LINE, "problem": {**TESTS, "prompt": helper}})
    answer = "So:\n```python\ndef f(n): return n+1\n```\n```python\nsecond\n```"
    assert kind.program(task, answer) == f"{helper.strip()}\ndef f(n): return n+1\n"
    assert kind.program(task, "```python\ndef f(n): return n+1\n") == ""
    assert kind.harness_lines(task, [answer, "none"]) == [
        {"task_id": "a", "completion": "def f(n): return n+1\n"},
        {"task_id": "a", "completion": ""},
    ]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"kind": "output"}, "record 1: field 'kind' is 'output'"),
        ({"id": None}, "field 'id' is missing"),
        ({"problem": None}, "field 'problem' is missing; a function problem needs its tests"),
        ({"kind": "stdin"}, "has tests of kind function, field 'kind' says stdin"),
        ({"problem": {"task_id": "a"}}, "field 'test'"),
        ({"prompt": ""}, "field 'prompt' is to be text or a list"),
        ({"prompt": [{"role": "user", "content": "x"}]}, "give --style instruct"),
        ({"prompt": ["x"]}, "field 'prompt' is to be text or a list"),
    ],
)
def test_what_is_no_problem_is_refused_with_its_place(tmp_path, change, sentence):
    with pytest.raises(DataError) as caught:
        tasks_of(tmp_path, {**LINE, **change})
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_there_are_settings_for_both_styles():
    for style in ("base", "instruct"):
        assert published("problems", style).sampling["max_new_tokens"] == 512
