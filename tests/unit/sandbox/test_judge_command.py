"""``megatron-dream judge`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.cli import main
from tests.unit.sandbox.fusion_service import Service, really

PROBLEMS = [
    {
        "task_id": "one",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    },
    {"task_id": "two", "inputs": ["3\n"], "outputs": ["9\n"]},
    {"task_id": "bad", "entry_point": "f", "test": "assert ("},
]
SAMPLES = [
    {"task_id": "one", "completion": "    return x + 1\n", "kept": 7},
    {"task_id": "one", "completion": "    return x\n"},
    {"task_id": "two", "program": "print(int(input()) ** 2)"},
]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def judge(
    folder: Path, problems: list[dict[str, Any]], samples: list[dict[str, Any]], *more: str
) -> int:
    words = ["judge", "--problems", str(write(folder / "p.jsonl", problems))]
    words += ["--samples", str(write(folder / "s.jsonl", samples))]
    return main([*words, "--output", str(folder / "r.jsonl"), "--workers", "1", *more])


def test_a_line_of_verdict_for_each_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(tmp_path, PROBLEMS, SAMPLES) == 0
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["passed"] for line in lines] == [True, False, True]
    assert lines[0]["kept"] == 7 and lines[1]["outcome"] == "failed"
    assert "candidate(1) == 2" in lines[1]["test"]
    assert "2 of 3 judged samples passed (66.7%)" in capsys.readouterr().out


def test_what_cannot_be_judged_is_told_and_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [*SAMPLES, {"task_id": "bad", "completion": "def f(): pass"}]
    assert judge(tmp_path, PROBLEMS, samples) == 1
    said = capsys.readouterr().out
    assert "2 of 3 judged samples" in said and "1 say nothing of their program" in said


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([{"task_id": "three", "completion": ""}], "s.jsonl, line 1: task_id 'three'"),
        ([SAMPLES[0], {"task_id": "one"}], "s.jsonl, line 2: give a string completion"),
    ],
)
def test_a_broken_sample_is_named_and_nothing_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    samples: list[dict[str, Any]],
    words: str,
) -> None:
    assert judge(tmp_path, PROBLEMS, samples) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r.jsonl").exists()


def test_a_task_that_is_there_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(tmp_path, [PROBLEMS[0], PROBLEMS[0]], SAMPLES[:1]) == 2
    assert "p.jsonl, line 2: task_id 'one' is there twice" in capsys.readouterr().err


def test_a_service_judges_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = Service(really)
    try:
        assert judge(tmp_path, PROBLEMS, SAMPLES, "--endpoints", service.url) == 0
    finally:
        service.close()
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["passed"] for line in lines] == [True, False, True]
    assert "beside their tests" in capsys.readouterr().out
    assert service.asked == ["/run_code"] * 4  # one to see whether it is there


def test_a_service_that_does_not_run_programs_is_told_before_any_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service(lambda path, question: (422, {}))
    try:
        assert judge(tmp_path, PROBLEMS, SAMPLES, "--endpoints", service.url) == 2
    finally:
        service.close()
    assert "HTTP 422" in capsys.readouterr().err
    assert service.asked == ["/run_code"] and not (tmp_path / "r.jsonl").exists()


def test_isolation_is_of_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--endpoints", "http://127.0.0.1:9", "--isolation", "process")
    assert judge(tmp_path, PROBLEMS, SAMPLES, *words) == 2
    assert "leave one away" in capsys.readouterr().err
