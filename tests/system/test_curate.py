"""``megatron-dream curate`` as a user types it: small files of every schema, the real judge, resumed runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_dream import cli
from megatron_dream.rl.curation import command
from megatron_dream.rl.problems import RlProblem, read_problems
from megatron_dream.sandbox import Judge, SandboxUnavailable
from tests.system.tiny_export import make_tiny_export

CHECKS = 5
# what spins is to run out of CPU time, however busy the machine is
LIMITS = ("--judge-cpu-seconds", "2", "--judge-wall-seconds", "120")


def kodcode(name: str, question: str, solution: str, test: str) -> dict[str, Any]:
    info = {"function_name": "f", "function_declaration": "def f(x):", "parameter_list": "(x)"}
    return {
        "question_id": name,
        "question": question,
        "solution": solution,
        "test": "from solution import f\n\n" + test,
        "test_info": [{**info, "docstring": ""}],
        "subset": "Made",
    }


def checks(expression: str, count: int = CHECKS) -> str:
    return "def test_f():\n" + "".join(
        f"    assert f({k}) == {expression.replace('k', str(k))}\n" for k in range(count)
    )


def write_inputs(folder: Path) -> list[str]:
    """Inputs of all four schemas, some of whose records have to go in each phase."""
    folder.mkdir()
    doubled = "def f(x):\n    return 2 * x\n"
    records: dict[str, list[Any]] = {
        "kodcode": [
            kodcode("double", "Double a number.", doubled, checks("2 * k")),
            kodcode("again", "double  a NUMBER .", doubled, checks("2 * k")),
            kodcode("few", "Halve a number.", doubled, checks("k", 2)),
            kodcode("wrong", "Triple a number.", doubled, checks("3 * k")),
            kodcode("cheat", "Square a number.", "raise SystemExit(0)", checks("k * k")),
            kodcode(
                "pytest",
                "Double, but no text.",
                "def f(x):\n    if isinstance(x, str):\n        raise ValueError('no')\n    return 2 * x\n",
                "import pytest\n@pytest.mark.parametrize('x', [1, 2, 3, 4])\ndef test_f(x):\n"
                "    assert f(x) == pytest.approx(2 * x)\ndef test_text():\n"
                "    with pytest.raises(ValueError, match='no'):\n        f('a')\n",
            ),
            kodcode("numpy", "Negate a number.", doubled, "import numpy\n" + checks("2 * k")),
            kodcode("loops", "Spin.", "def f(x):\n    while True: pass\n", checks("k")),
            # The first of two that ask for the same has a wrong solution: the second stays.
            kodcode("first", "Quadruple a number.", "def f(x):\n    return x\n", checks("4 * k")),
            kodcode(
                "second", "Quadruple a number.", "def f(x):\n    return 4 * x\n", checks("4 * k")
            ),
            {"question_id": "broken", "question": 3},
        ],
        "deepcoder": [
            {
                "problem": "Read a number and print the next one.",
                "tests": json.dumps(
                    {
                        "inputs": [f"{k}\n" for k in range(6)],
                        "outputs": [[str(k + 1)] for k in range(6)],
                    }
                ),
                "solutions": ["```python\nprint(int(input()) + 1)\n```"],
            },
            {
                "problem": "Pair a number with itself.",
                "starter_code": "class Solution:\n    def pair(self, x: int):\n        pass",
                "tests": json.dumps(
                    [
                        {
                            "type": "function_call",
                            "fn_name": "pair",
                            "input": [k],
                            "output": [[k, k]],
                        }
                        for k in range(5)
                    ]
                ),
                "solutions": ["class Solution:\n    def pair(self, x):\n        return (x, x)\n"],
            },
        ],
        "guru": [
            {
                "data_source": "codegen__leetcode2k",
                "prompt": [{"role": "user", "content": "Count the items."}],
                "reward_model": {
                    "ground_truth": json.dumps(
                        {
                            "functional": "def check(candidate):\n"
                            + "".join(f"    assert candidate([0] * {k}) == {k}\n" for k in range(5))
                            + "\n\ncheck(Solution().count)"
                        }
                    )
                },
                "extra_info": {
                    "prefix": "from typing import *\n",
                    "reference": "class Solution:\n    def count(self, xs: List[int]):\n"
                    "        return len(xs)\n",
                },
            },
            *(
                {
                    "data_source": "simulation__codeio",
                    "prompt": [{"role": "user", "content": f"What does `{k} + {k}` give?"}],
                    "reward_model": {"ground_truth": f'"output": {2 * k}'},
                    "extra_info": {"index": k},
                }
                for k in range(4)
            ),
            {"data_source": "math__x", "prompt": [], "reward_model": {}},
        ],
        "own": [
            {
                "task_id": "own/last",
                "prompt": "def last(xs):\n    '''The last item.'''\n",
                "entry_point": "last",
                "test": "def check(candidate):\n"
                + "".join(f"    assert candidate([{k}]) == {k}\n" for k in range(5)),
                "canonical_solution": "    return xs[-1]\n",
            }
        ],
    }
    inputs = []
    for schema, lines in records.items():
        path = folder / f"{schema}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        inputs.append(f"{schema}:{path}")
    return inputs


def curate(*words: str | Path) -> int:
    return cli.main(["curate", *LIMITS, *map(str, words)])


def problems_of(output: Path) -> dict[str, RlProblem]:
    return {problem.id: problem for problem in read_problems(output / "problems.jsonl")}


def dropped(output: Path) -> dict[str, tuple[str, str]]:
    lines = map(json.loads, (output / "dropped.jsonl").read_text().splitlines())
    return {line["id"].rpartition("/")[2]: (line["phase"], line["reason"]) for line in lines}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_inputs(tmp_path_factory.mktemp("curate") / "inputs")


@pytest.fixture(scope="module")
def first(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run without difficulty and balance."""
    output = tmp_path_factory.mktemp("curated") / "out"
    assert curate("--input", *inputs, "--output", output, "--workers", "2") == 0
    return output


def test_every_phase_drops_what_it_should_and_says_why(first: Path) -> None:
    assert dropped(first) == {
        "kodcode.jsonl, line 11": ("read", "broken record"),
        "guru.jsonl, line 6": ("read", "no code problem (data_source math__x)"),
        "few": ("tests", "fewer than 5 tests"),
        "again": ("duplicates", "same words as an earlier prompt"),
        "wrong": ("references", "reference: failed"),
        "first": ("references", "reference: failed"),
        "cheat": ("references", "reference: failed"),
        "numpy": ("references", "reference: failed"),
        "loops": ("references", "reference: timeout"),
    }
    kinds = sorted(problem.kind for problem in problems_of(first).values())
    assert kinds == ["function"] * 6 + ["output"] * 4 + ["stdin"]
    report = json.loads((first / "report.json").read_text())
    assert report["problems"] == 11 and report["kind"] == {"function": 6, "stdin": 1, "output": 4}
    assert [(p["name"], p["num_before"], p["num_after"]) for p in report["phases"]] == [
        ("read", 20, 18),
        ("tests", 18, 17),
        ("references", 17, 12),
        ("duplicates", 12, 11),
    ]
    assert report["source"]["kodcode/Made"] == 3
    text = (first / "report.md").read_text()
    assert "# 11 problems" in text and "reference: timeout" in text and "--embeddings" in text
    assert (first / "apart.jsonl").read_text() == ""


def test_a_second_call_runs_nothing_and_gives_the_same(
    first: Path,
    inputs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(first, output)
    before = {name: (output / name).read_bytes() for name in ("problems.jsonl", "report.json")}
    monkeypatch.setattr(command, "start_judge", None)  # starting one would be an error
    (output / "problems.jsonl").unlink()
    assert curate("--input", *inputs, "--output", output) == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert before == {name: (output / name).read_bytes() for name in before}
    # Other options run the phases from there on, and no others.
    assert curate("--input", *inputs, "--output", output, "--balance", "stdin=1,output=1") == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert sorted(problem.kind for problem in problems_of(output).values()) == ["output", "stdin"]
    monkeypatch.undo()
    assert curate("--input", *inputs, "--output", output, "--min-tests", "2") == 0
    told = capsys.readouterr().out
    assert told.count("done before") == 1 and dropped(output)["few"][0] == "references"


def test_a_killed_judge_phase_goes_on(
    first: Path, inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    words = ("--input", *inputs, "--output", output, "--workers", "1")
    judged: list[str] = []

    class Dies(Judge):
        def submit(self, program: str, problem: Any) -> Any:
            if len(judged) == 6:
                raise KeyboardInterrupt
            judged.append(problem.task_id)
            return super().submit(program, problem)

    monkeypatch.setattr(command, "start_judge", lambda *given: Dies(*given[:3]))
    assert curate(*words) == 130
    assert not (output / "problems.jsonl").exists()
    (path,) = (output / "phases" / "measured").glob("verdicts-*.jsonl")
    verdicts = path.read_text().splitlines()
    assert verdicts
    monkeypatch.undo()
    assert curate(*words) == 0
    after = path.read_text().splitlines()
    assert after[: len(verdicts)] == verdicts
    assert len({json.loads(line)["id"] for line in after}) == len(after) == 13
    assert (output / "problems.jsonl").read_bytes() == (first / "problems.jsonl").read_bytes()


def test_a_run_that_was_killed_outright_goes_on(
    first: Path, inputs: list[str], tmp_path: Path, repository_root: Path
) -> None:
    output = tmp_path / "out"
    words = ["--input", *inputs, "--output", str(output), "--workers", "1"]
    measured = output / "phases" / "measured"
    process = subprocess.Popen(
        [sys.executable, "-m", "megatron_dream", "curate", *LIMITS, *words], cwd=repository_root
    )
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in measured.glob("verdicts-*.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert not (output / "problems.jsonl").exists()
    (verdicts,) = measured.glob("verdicts-*.jsonl")
    with open(verdicts, "ab") as stream:
        stream.write(b'{"id": "half')  # what a kill in the middle of a line leaves
    begun = verdicts.read_bytes().rpartition(b"\n")[0]
    assert curate(*words) == 0
    assert verdicts.read_bytes().startswith(begun)
    assert (output / "problems.jsonl").read_bytes() == (first / "problems.jsonl").read_bytes()


def test_difficulty_of_a_file_and_what_came_out_as_input(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(problems_of(first))
    rates = tmp_path / "rates.jsonl"
    rates.write_text(
        f'{{"id": "{names[0]}", "solve_rate": 1.0}}\n{{"id": "{names[1]}", "solve_rate": 0.25}}\n'
    )
    output = tmp_path / "out"
    words = (
        "--input",
        f"own:{first / 'problems.jsonl'}",
        "--output",
        output,
        "--difficulty",
        rates,
    )
    assert curate(*words) == 0
    found = problems_of(output)
    assert list(found) == names[1:] and found[names[1]].solve_rate == 0.25
    assert found[names[2]].solve_rate is None
    assert "1 all candidates are right" in capsys.readouterr().out


def test_difficulty_of_a_models_candidates(
    first: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_tiny_export(tmp_path / "model" / "export")
    output = tmp_path / "out"
    words = [
        "--input",
        f"own:{first / 'problems.jsonl'}",
        "--output",
        output,
        "--difficulty",
        model,
    ]
    words += ["--candidates", "2", "--max-new-tokens", "16", "--workers", "1"]
    assert curate(*words) == 0
    rates = {problem.solve_rate for problem in problems_of(output).values()}
    assert rates == {0.0}  # random weights solve nothing, and what nobody solves stays
    (path,) = (output / "phases" / "measured").glob("candidates-*.jsonl")
    lines = [line for text in path.read_text().splitlines() for line in json.loads(text)["batch"]]
    assert len(lines) == 11 and all(line["candidates"] == 2 for line in lines)
    monkeypatch.setattr(command, "load_candidates", lambda *_: 1 / 0)  # nothing is asked again
    assert curate(*words, "--drop-unsolved") == 0
    assert problems_of(output) == {}
    assert "11 no candidate is right" in capsys.readouterr().out


def test_a_sandbox_that_does_not_work_is_told_after_reading(
    inputs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: Any) -> None:
        raise SandboxUnavailable("unshare: Operation not permitted", is_denied=True)

    monkeypatch.setattr(command, "start_judge", refuses)
    assert curate("--input", *inputs, "--output", tmp_path / "out") == 2
    assert "cannot be shut in" in capsys.readouterr().err
    values = tmp_path / "values.jsonl"
    line = RlProblem("v", "output", "What is 1 + 1?", answer="2").to_line()
    values.write_text(line)
    assert curate("--input", f"own:{values}", "--output", tmp_path / "values") == 0
    assert (tmp_path / "values" / "problems.jsonl").read_text() == line


def test_the_judge_chooses_how_programs_are_shut_in_and_it_is_said_once(
    inputs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str | None] = []
    seconds: list[tuple[int, float]] = []

    class Refused(Judge):
        """A judge of a machine without namespaces."""

        def __init__(self, workers: Any, limits: Any, isolation: Any) -> None:
            asked.append(isolation)
            seconds.append((limits.cpu, limits.wall))
            super().__init__(workers, limits, "process")
            self.notice = "" if isolation else "Namespaces are refused."

    monkeypatch.setattr(command, "start_judge", lambda *given: Refused(*given[:3]))
    words = ("--input", inputs[-1], "--output", tmp_path / "out", "--workers", "1")
    assert curate(*words) == 0
    assert asked == [None, None]  # one to see that there is a sandbox, one for the references
    assert capsys.readouterr().out.count("Namespaces are refused.") == 1
    words = (*words[:3], tmp_path / "other", "--isolation", "bubblewrap")
    assert curate(*words, "--judge-cpu-seconds", "7", "--judge-wall-seconds", "8.5") == 0
    assert seconds == [(2, 120.0)] * 2 + [(7, 8.5)] * 2
    assert asked[2:] == ["bubblewrap"] * 2 and "refused" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--min-tests", "-1"], "--min-tests is below 0"),
        (["--similarity", "1.5"], "--similarity is 1.5"),
        (["--temperature", "0"], "--temperature is 0"),
        (["--candidates", "0"], "--candidates is 0"),
        (["--judge-cpu-seconds", "0"], "--judge-cpu-seconds is 0"),
        (["--judge-wall-seconds", "0"], "--judge-wall-seconds is 0"),
        (["--balance", "functions=1"], "--balance functions=1"),
        (["--difficulty", "nowhere"], "nowhere"),
        (["--embeddings", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(
    inputs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    started = time.monotonic()
    assert curate("--input", *inputs, "--output", tmp_path / "out", *words) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert time.monotonic() - started < 5
