"""The RL demonstration's problems: what is held out, what tests tell, what demonstrations show."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.load import load_config
from megatron_dream.rl.problems import read_problems
from megatron_dream.sandbox import Judge, Limits, problem_of
from megatron_dream.sandbox.formats import program_of
from megatron_dream.tokenizer.train import train_sentencepiece

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "tiny"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tiny_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


rl_problems, rl_measure = load("rl_problems"), load("rl_measure")


def problems_of(seed: int, heldout: int, per_template: int) -> dict[str, list[dict[str, Any]]]:
    parts = rl_problems.split(seed, heldout, per_template)
    return {
        name: [rl_problems.problem_fields(q, n, name, seed) for n, q in enumerate(part)]
        for name, part in zip(("train", "heldout"), parts, strict=True)
    }


@pytest.fixture(scope="module")
def problems() -> dict[str, list[dict[str, Any]]]:
    return problems_of(0, 62, 20)


@pytest.fixture(scope="module")
def judge() -> Any:
    with Judge(1, Limits(cpu=2, wall=10.0), "process") as judge:
        yield judge


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**31))
def test_no_program_of_a_heldout_problem_is_a_training_problems(seed: int) -> None:
    parts = problems_of(seed, 100, 20)
    trees = {
        name: {
            ast.dump(ast.parse(problem[form]))
            for problem in part
            for form in ("canonical_solution", "wrong_solution")
        }
        for name, part in parts.items()
    }
    assert len(parts["heldout"]) == 100 and len(parts["train"]) > 500
    assert not trees["train"] & trees["heldout"]
    prompts = [problem["prompt"] for part in parts.values() for problem in part]
    assert len(set(prompts)) == len(prompts)


def test_what_there_is_to_ask() -> None:
    templates = rl_problems.TEMPLATES
    assert len(templates) >= 25
    assert {template.topic for template in templates} == {"lists", "strings", "arithmetic", "loops"}
    assert 4 <= sum(template.always for template in templates) < len(templates) / 3
    programs = {q.right for template in templates for q in rl_problems.questions(template)}
    assert len(programs) > 5000


def test_every_template_is_in_both_parts(problems: dict[str, list[dict[str, Any]]]) -> None:
    names = {template.name for template in rl_problems.TEMPLATES}
    for part in problems.values():
        assert {problem["template"] for problem in part} == names


def test_tests_tell_right_from_wrong(problems: dict[str, list[dict[str, Any]]], judge: Any) -> None:
    first = {problem["template"]: problem for problem in problems["heldout"]}
    wanted = [
        (problem, form, form == "canonical_solution")
        for problem in first.values()
        for form in ("canonical_solution", "wrong_solution")
    ]
    tasks = [(p[form], problem_of(p, p["task_id"])) for p, form, _ in wanted]
    for (problem, form, passes), verdict in zip(wanted, judge.verdicts(tasks), strict=True):
        assert verdict.passed == passes, (problem[form], problem["test"], verdict)


def test_no_constant_passes(problems: dict[str, list[dict[str, Any]]]) -> None:
    for problem in problems["train"]:
        lines = problem["test"].splitlines()
        assert rl_problems.MIN_TESTS <= len(lines) <= rl_problems.MAX_TESTS
        assert len({line.rpartition(" == ")[2] for line in lines}) > 1, problem


def test_programs_that_differ_in_one_choice_fail() -> None:
    """All but those that no argument tells apart, such as ``v<8`` and ``v<=7``."""
    template = next(t for t in rl_problems.TEMPLATES if t.name == "sum")
    question = rl_problems.Question(template, (0, 4, 2))
    assert question.right == "def f(xs): return sum([v+3 for v in xs if v>5])"
    tests = rl_problems.tests_of(question)
    others = [question.wrong, *question.neighbours()]
    assert len(set(others)) == 7 - 1  # the wrong form of ``above`` is a neighbour too
    for other in others:
        names: dict[str, Any] = {}
        exec(other, names)
        with pytest.raises(AssertionError):
            exec(tests, names)


def test_what_no_argument_tells_apart_is_no_problem() -> None:
    part = next(t for t in rl_problems.TEMPLATES if t.name == "part")
    numbers = {name: n for n, name in enumerate(part.slots)}
    choice = [0] * len(numbers)
    choice[numbers["k"]] = 8  # n % 3 is never near 9
    assert rl_problems.tests_of(rl_problems.Question(part, tuple(choice))) is None


def test_demonstrations_have_the_habit(problems: dict[str, list[dict[str, Any]]]) -> None:
    shown = rl_problems.demonstrations(problems["train"], seed=3)
    assert len(shown) == rl_problems.DEMONSTRATIONS * len(problems["train"])
    known = {problem["task_id"]: problem for problem in problems["train"]}
    for entry in shown:
        problem = known[entry["task_id"]]
        form = "canonical_solution" if entry["is_right"] else "wrong_solution"
        assert program_of(entry["response"]) == problem[form] + "\n"
    rates = rl_problems.pass_rates(shown)
    assert rates["always"] == 0.0 and abs(rates["mixed"] - 0.4) < 0.04


def test_right_and_wrong_have_the_same_number_of_tokens_and_fit(
    problems: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    text = tmp_path / "text.jsonl"
    lines = [
        {"text": f"{p['prompt']}\n{rl_problems.fenced(p[form])}"}
        for p in problems["train"]
        for form in ("canonical_solution", "wrong_solution")
    ]
    text.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tokenizer = train_sentencepiece([text], rl_problems.VOCAB_SIZE, tmp_path / "t.model")
    room = load_config(FOLDER / "rl_start.yaml").data.sequence_length
    for problem in problems["heldout"] + problems["train"]:
        right, wrong = (
            len(tokenizer.encode(rl_problems.fenced(problem[form])))
            for form in ("canonical_solution", "wrong_solution")
        )
        assert right == wrong < rl_measure.CANVAS, problem["canonical_solution"]
        assert 1 + len(tokenizer.encode(problem["prompt"])) + rl_measure.CANVAS <= room


def test_the_command_writes_the_same_files_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    for name in ("one", "two"):
        words = ["--output", str(tmp_path / name), "--heldout", "31", "--per-template", "5"]
        monkeypatch.setattr(sys, "argv", ["rl_problems.py", *words])
        rl_problems.main()
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    wanted = {"train.jsonl", "heldout.jsonl", "demonstrations.jsonl", "text.jsonl", "counts.json"}
    assert set(written[0]) == wanted
    problems = list(read_problems(tmp_path / "one" / "heldout.jsonl"))
    assert len(problems) == 31 and all(problem.kind == "function" for problem in problems)
    first = problems[0]
    assert first.problem is not None and first.problem.tests.startswith("assert f(")
    assert rl_problems.unfenced(rl_problems.fenced("pass")) == "pass\n"
    assert "always         0.0%" in capsys.readouterr().out


TESTS = {
    "task_id": "t",
    "entry_point": "f",
    "test": "assert f(3) == False\nassert f(4) == True\n",
}
PROBLEM = {
    "id": "t",
    "prompt": "whether number above three",
    "problem": TESTS,
    "template": "whether",
    "topic": "arithmetic",
    "habit": "mixed",
}
RIGHT, WRONG = "```python\ndef f(n): return n>3\n```", "```python\ndef f(n): return n>=3\n```"


def test_figures(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"origin": [RIGHT, WRONG, WRONG, "no fence"], "entropy": [WRONG]}
    monkeypatch.setattr(
        rl_measure, "sampled_texts", lambda _, prompts, config: iter([answers[config.alg]] * 2)
    )
    ids = {"mask_id": 1, "pad_id": 2, "bos_id": 3, "eos_id": 2, "vocab_size": 9}
    sampler = SimpleNamespace(tokenizer=SimpleNamespace(**ids))
    keep: list[dict[str, Any]] = []
    problems = [PROBLEM, {**PROBLEM, "habit": "always"}]
    figures = rl_measure.measure(sampler, problems, judge, samples=4, keep=keep)
    row = figures["groups"]["all"]
    assert row == {
        "problems": 2, "sampled": 0.25, "greedy": 0.0, "pass_at_k": 1.0, "informative": 1.0,
        "distinct": 3.0, "no_program": 0.25,
    }  # fmt: skip
    names = ["all", "mixed", "always", "arithmetic", "template whether"]
    assert sorted(figures["groups"]) == sorted(names) and figures["infrastructure"] == 0
    assert [answer["passed"] for answer in keep[0]["answers"]] == [False, True, False, False, False]
    assert "always" in rl_measure.table(figures)


def test_what_cannot_be_judged_is_not_counted(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**PROBLEM, "problem": {**TESTS, "test": "assert ("}}
    answers = rl_measure.judged(judge, broken, [RIGHT, "no fence"])
    assert [answer.passed for answer in answers] == [None, False]
    assert rl_measure._figures(answers[:1], answers[1]) is None
