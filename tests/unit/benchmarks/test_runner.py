"""The runner: each end of a case is a row, results are kept, time runs out in a word."""

import json
import signal
import sys

import pytest

from benchmarks.gpu_kit import one, runner
from benchmarks.gpu_kit.runner import Case, Runner

CASE = Case("a", "rates_job:facts", {"fields": {"x": 1}}, seconds=30.0, attempts=({}, {"x": 2}))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A runner whose cases are what the test says, by the value of ``x``; with the calls it made."""
    calls = []

    def start(answers, **options):
        def run(spec):
            calls.append(spec["arguments"]["fields"]["x"])
            return answers[calls[-1]]

        monkeypatch.setattr(one, "run", run)
        lines = []
        return Runner(tmp_path, "commit", here=True, say=lines.append, **options), lines

    return start, calls


def test_a_result_is_kept_and_another_tree_does_not_take_it(made, tmp_path):
    start, calls = made
    first, _ = start({1: {"status": "ok", "figure": 3.0}})
    found = first.run(CASE)
    assert found["figure"] == 3.0 and found["tried"] == [] and "clocks" in found
    again, lines = start({1: {"status": "failed", "detail": "not to be run"}})
    assert again.run(CASE) == found and calls == [1]
    assert "known" in lines[0]
    Runner(tmp_path, "other commit", here=True, say=print).run(CASE)
    assert calls == [1, 1]


def test_memory_that_runs_out_tries_less(made):
    start, calls = made
    found = start({1: {"status": one.OUT_OF_MEMORY, "detail": "80 GB"}, 2: {"status": "ok"}})[
        0
    ].run(CASE)
    assert found["status"] == "ok" and calls == [1, 2]
    assert found["tried"] == ["as planned: 80 GB"]


def test_out_of_memory_at_last_is_a_row_and_final(made):
    start, calls = made
    short = {"status": one.OUT_OF_MEMORY, "detail": "80 GB"}
    assert start({1: short, 2: short})[0].run(CASE)["status"] == one.OUT_OF_MEMORY
    start({1: {"status": "ok"}})[0].run(CASE)
    assert calls == [1, 2]  # not a third time


def test_a_failure_is_run_again_by_a_later_call(made):
    start, calls = made
    assert start({1: {"status": one.FAILED, "detail": "x"}})[0].run(CASE)["status"] == "failed"
    assert start({1: {"status": "ok"}})[0].run(CASE)["status"] == "ok"
    assert calls == [1, 1]


def test_the_budget_is_said(made, tmp_path):
    start, calls = made
    found = start({}, budget_seconds=1e-9)[0].run(CASE)
    assert found["status"] == runner.NOT_RUN and calls == []
    assert not list(tmp_path.glob("*.json"))  # so that a later call runs it


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        ("MemoryError()", one.OUT_OF_MEMORY),
        ("RuntimeError('CUDA error: out of memory')", one.OUT_OF_MEMORY),
        ("RuntimeError('CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate')", one.OUT_OF_MEMORY),
        ("RuntimeError('shape mismatch')", one.FAILED),
        ("ValueError('out of memory of my youth')", one.FAILED),
        ("skip.SkipCase('needs a GPU')", one.SKIPPED),
        ("errors.ConfigError('no')", one.REFUSED),
    ],
)
def test_how_a_case_ended(monkeypatch, raised, status):
    from benchmarks.gpu_kit import rates_job, skip
    from megatron_dream import errors

    def broken():
        raise eval(raised, {"skip": skip, "errors": errors})

    monkeypatch.setattr(rates_job, "facts", broken)
    found = one.run({"job": "rates_job:facts", "arguments": {}})
    assert found["status"] == status and found["detail"]


def test_a_process_that_ends_itself(tmp_path, monkeypatch):
    """Real processes: killed from outside, exit codes without a word, and one that never ends."""
    made = Runner(tmp_path, "commit", say=lambda _: None)
    told = json.dumps({"status": "ok", "x": 1})
    scripts = {
        "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "silent": "raise SystemExit(3)",
        "endless": "import time; time.sleep(600)",
        "told": f"open({str(tmp_path / '.told.out.json')!r}, 'w').write({told!r})",
    }
    found = {}
    for name, script in scripts.items():
        monkeypatch.setattr(runner, "command", lambda *_, s=script: [sys.executable, "-S", "-c", s])
        found[name] = made.run(Case(name, "x:y", seconds=1.0 if name == "endless" else 60.0))
    assert found["killed"]["status"] == one.OUT_OF_MEMORY
    assert found["silent"]["status"] == one.FAILED and "3" in found["silent"]["detail"]
    assert found["endless"]["status"] == runner.TIMED_OUT
    assert found["told"]["status"] == one.OK and found["told"]["x"] == 1


def test_one_of_several_ran_out_of_memory(tmp_path):
    """The first rank fails because the second ran out of memory: the second's word counts."""
    out = tmp_path / "o.json"
    out.write_text(json.dumps({"status": one.FAILED, "detail": "NCCL: connection reset"}))
    one.rank_file(out, 1).write_text(json.dumps({"status": one.OUT_OF_MEMORY, "detail": "80 GB"}))
    log = tmp_path / "log"
    log.touch()
    assert runner._ended(out, 1, log, 2, 1.0)["status"] == one.OUT_OF_MEMORY
    assert (
        runner._ended(tmp_path / "no.json", -signal.SIGKILL, log, 2, 1.0)["status"]
        == one.OUT_OF_MEMORY
    )


def test_several_processes_meet_at_a_free_port():
    words = runner.command(4, "spec", "out")
    assert words[words.index("--nproc_per_node") + 1] == "4" and "localhost:0" in words
