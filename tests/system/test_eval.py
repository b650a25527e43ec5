"""``megatron-dream eval`` as a user types it: resumed after kills, on two ranks, refused where it must be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from megatron_dream.cli import main
from tests.system.tiny_export import make_tiny_export

PROBLEM = {
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
NUM_TASKS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    make_tiny_export(folder / "model" / "export")
    data = folder / "data"
    data.mkdir()
    (data / "HumanEval.jsonl").write_text(
        "".join(
            json.dumps(
                {**PROBLEM, "task_id": f"HumanEval/{n}", "prompt": f"# {n}\n" + PROBLEM["prompt"]}
            )
            + "\n"
            for n in range(NUM_TASKS)
        )
    )
    (data / "cruxeval.jsonl").write_text(
        json.dumps(
            {"id": "sample_0", "code": "def f(x):\n    return x", "input": "1", "output": "1"}
        )
        + "\n"
    )
    return folder


def command(folder, output, *more, launcher=()):
    return [
        *(launcher or (sys.executable, "-m", "megatron_dream")), "eval", str(folder / "model" / "export"),
        "--suite", "humaneval", "--style", "base", "--data", str(folder / "data"),
        "--output", str(folder / output), "--max-new-tokens", "16", "--samples", "2",
        "--batch-size", "4", "--seed", "5", *more,
    ]  # fmt: skip


def run(words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=500)


def here(words):
    """Exit code of the same command in this process, where nothing is killed: starting one takes seconds."""
    return main(words[words.index("eval") :])


def lines_of(folder, output):
    files = (folder / output / "humaneval").glob("samples.[0-9]*.jsonl")
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines(True)
            if line.endswith(b"\n")]  # fmt: skip


def final(folder, output):
    """All that must be the same: not how long it took, which a person's watch says."""
    lines = (folder / output / "humaneval" / "verdicts.jsonl").read_text().splitlines()
    judged = [json.loads(line) for line in lines]
    for line in judged:
        del line["seconds"]
    return judged


@pytest.fixture(scope="module")
def whole(folder):
    done = run(command(folder, "whole"))
    assert done.returncode == 0, done.stderr
    return done


def test_scores_tables_and_the_harness_file(folder, whole):
    where = folder / "whole" / "humaneval"
    scores = json.loads((where / "scores.json").read_text())
    assert scores["num_tasks"] == NUM_TASKS and scores["num_samples"] == 2 * NUM_TASKS
    assert 0 < scores["tokens_per_pass"] <= 2 and scores["flops"] > 0
    assert "| HumanEval | 16 | 0.0 |" in whole.stdout
    solutions = [json.loads(line) for line in (where / "humaneval.jsonl").read_text().splitlines()]
    assert [sorted(line) for line in solutions] == [["solution", "task_id"]] * 2 * NUM_TASKS


def test_a_killed_evaluation_resumes_without_repeating_a_sample(folder, whole):
    process = subprocess.Popen(
        command(folder, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while len(lines_of(folder, "killed")) < 7 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(lines_of(folder, "killed")) >= 7
    assert here(command(folder, "killed")) == 0
    made = [(line["task_id"], line["sample_index"]) for line in lines_of(folder, "killed")]
    assert len(made) == len(set(made)) == 2 * NUM_TASKS
    assert final(folder, "killed") == final(folder, "whole")


def test_two_ranks_make_the_same_samples(folder, whole):
    launcher = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "megatron_dream",
    )  # fmt: skip
    done = run(command(folder, "ranks", launcher=launcher))
    assert done.returncode == 0, done.stderr
    files = sorted((folder / "ranks" / "humaneval").glob("samples.[0-9]*.jsonl"))
    assert [len(file.read_text().splitlines()) for file in files] == [NUM_TASKS, NUM_TASKS]
    assert final(folder, "ranks") == final(folder, "whole")


def test_a_finished_evaluation_is_scored_again_without_the_sampler(folder, whole, capsys):
    before = {p: p.stat().st_mtime_ns for p in (folder / "whole" / "humaneval").glob("samples.*")}
    assert here(command(folder, "whole")) == 0
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert here(command(folder, "whole", "--temperature", "0.9")) == 2
    assert "another evaluation" in capsys.readouterr().err


def test_a_checkpoint_answers_as_its_export(folder, whole):
    """Both hold the same fp32 weights; greedy, so that rounding decides nothing but exact ties."""
    checkpoint = folder / "checkpoint"
    words = [sys.executable, "-m", "megatron_dream", "import-hf", str(folder / "model" / "export")]
    done = run([*words, str(checkpoint)])  # starts process groups: not in this process
    assert done.returncode == 0, done.stderr
    answers = []
    for output, model in (("greedy", None), ("greedy_checkpoint", checkpoint)):
        words = command(folder, output, "--temperature", "0", "--limit", "4")
        if model is not None:
            words[words.index(str(folder / "model" / "export"))] = str(model)
        assert here(words) == 0
        lines = lines_of(folder, output)
        answers.append({(line["task_id"], line["sample_index"]): line["answer"] for line in lines})
        assert all(line["flops"] > 0 for line in lines)
    assert answers[0] == answers[1] and len(answers[0]) == 8


def test_references_and_refusals(folder, tmp_path, capsys):
    assert here(command(folder, "nothing", "--references")) == 0
    assert "12 of 12 reference solutions pass" in capsys.readouterr().out
    for words, sentence in (
        (["--suite", "papers"], "no suite 'papers'"),
        (["--tasks", "mmlu"], "suite humaneval has"),
        (["--gap", "wide"], "give grow, oracle or a number"),
        (["--data", str(tmp_path)], "the problems of humaneval are not there"),
        (["--samples", "0"], "--samples is 0"),
        (["--top-p", "2"], "--top-p"),
    ):
        assert here(command(folder, "refused", *words)) == 2
        told = capsys.readouterr().err
        assert sentence in told and told.count("\n") == 1
