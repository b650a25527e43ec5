"""Faults in a run of four real processes (TP 2 x DP 2): it ends with what an undisturbed run ends with.

One of each kind; tests/acceptance/soak.py draws many.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_dream.training.status import summarise
from tests.acceptance.soak_job import (
    LAYOUT,
    SCRIPT,
    WATCHED,
    Fault,
    Job,
    events,
    free_port,
    put,
    small_disk,
)
from tests.system.test_pretrain import assert_equal_checkpoints
from tests.warm import WarmStarter

STALL_SECONDS = 40.0
STEPS, BATCH = 20, 8


@pytest.fixture
def faulty_config(config_file: Path) -> Path:
    config = yaml.safe_load(config_file.read_text())
    config["training"] |= {"train_steps": STEPS, "global_batch_size": BATCH}
    config["checkpoint"] |= {"save_interval": 2}
    config["faults"] = {"patience": 1, "rollback_extra_steps": 0}
    del config["data"]["valid"]
    config_file.write_text(yaml.safe_dump(config))
    return config_file


def start(warm: WarmStarter, config: Path, run: Path, plan: dict[str, Any], *words: str) -> Job:
    path = run.parent / f"{run.name}-plan.json"
    path.write_text(json.dumps(plan))
    every = [
        "--config",
        str(config),
        "--checkpoint.run_folder",
        str(run),
        *LAYOUT,
        *WATCHED,
        *words,
    ]
    return Job(warm, run, path, every, STALL_SECONDS)


def has_reached(job: Job, step: int) -> bool:
    return job.step() >= step


def finish(job: Job) -> None:
    job.end()
    assert [process.returncode for process in job.processes] == [0] * 4, job.said()


def test_five_faults(faulty_config: Path, tmp_path: Path, warm: WarmStarter) -> None:
    """NaN on one rank, kill -9, SIGSTOP, a full disk, a checkpoint cut off; then the run ends as it should.

    NaN in one step: its update is skipped. NaN in two, more than ``patience``: the run goes back and
    leaves them out. The undisturbed run leaves out the one update by hand, and the data of the two steps
    from its start.
    """
    straight, faulty = tmp_path / "straight", tmp_path / "faulty"
    one, two = 2 * BATCH, 10 * BATCH
    hand_made = {"without": [one], "left_out": [[two, two + 2 * BATCH]]}
    finish(start(warm, faulty_config, straight, hand_made))
    plan = {"nan": [[one, 2], [two, 1], [two + BATCH, 3]]}
    faults = [
        Fault("kill", 4, rank=1),
        Fault("full_disk", 8),
        Fault("truncate", 12),
        Fault("stop", 15, rank=3),
    ]
    rows = []
    with small_disk(faulty / "checkpoints", megabytes=16) as is_mounted:
        if not is_mounted:
            faults = [fault for fault in faults if fault.kind != "full_disk"]
        job = start(warm, faulty_config, faulty, plan)
        for fault in faults:
            assert job.wait_for(partial(has_reached, job, fault.step)), job.said()
            rows.append(put(job, fault, random.Random(0)))
            if rows[-1]["is_over"]:
                job = start(warm, faulty_config, faulty, plan)
        finish(job)
        assert_equal_checkpoints(straight, faulty)
    kinds = [event["kind"] for event in events(faulty) if event["event"] == "fault"]
    assert {"not_finite", "rollback", "checkpoint_passed_over"} <= set(kinds)
    for row in rows:
        assert row.get("is_noticed", True), row
        expected = {"kill": ("itself", "watchdog"), "stop": ("watchdog",)}.get(row["kind"], (None,))
        assert row.get("ended_by") in expected, row
    if not is_mounted:
        pytest.skip("needs a mount for the full disk: run as root; the other four faults passed")
    assert "save_missed" in kinds


Alone = Callable[..., Any]


@pytest.fixture
def alone(faulty_config: Path, tmp_path: Path, warm: WarmStarter) -> Alone:
    """A run in one process with bad numbers put in; its exit code and what it said."""

    def run(name: str, plan: dict[str, Any], *words: str) -> tuple[int, str]:
        path = tmp_path / f"{name}-plan.json"
        path.write_text(json.dumps(plan))
        every = ["--config", str(faulty_config), "--checkpoint.run_folder", str(tmp_path / name)]
        done = warm.run(str(SCRIPT), str(path), "0", "1", str(free_port()), "--", *every, *words)
        return done.returncode, done.stderr

    return run


def kinds_of(run: Path) -> list[str]:
    return [event["kind"] for event in events(run) if event["event"] == "fault"]


def test_spikes_are_skipped(alone: Alone, tmp_path: Path) -> None:
    """A gradient times 1000, and a loss of 99: no trace of either, the schedule included."""
    words = ["--faults.spike_window", "4", "--training.train_steps", "10"]
    first, second = 6 * BATCH, 8 * BATCH
    spikes = {"times": [[first, 0, 1000.0]], "loss": [[second, 99.0]]}
    assert alone("spiky", spikes, *words)[0] == 0
    assert alone("straight", {"without": [first, second]}, *words)[0] == 0
    assert_equal_checkpoints(tmp_path / "straight", tmp_path / "spiky")
    steps = {e["step"]: e for e in events(tmp_path / "spiky") if e["event"] == "step"}
    assert [n for n, e in steps.items() if e["update"] == "skipped"] == [7, 9]
    assert steps[7]["lr"] == steps[6]["lr"] and steps[10]["skipped_updates"] == 2
    assert kinds_of(tmp_path / "spiky") == ["gradient_spike", "loss_spike"]
    off = ["--faults.loss_spike_factor", "0", "--faults.grad_norm_spike_factor", "0"]
    assert alone("off", spikes, *words, *off)[0] == 0
    assert kinds_of(tmp_path / "off") == []


def test_going_back_too_often_ends_the_run(alone: Alone, tmp_path: Path) -> None:
    """All data from some place on is bad."""
    bad = {"nan": [[n * BATCH, 0] for n in range(5, 40)]}
    code, said = alone("run", bad, "--faults.max_rollbacks", "2")
    assert code == 2 and "Traceback" not in said
    assert "gone back 2 times (faults.max_rollbacks 2)" in said
    rollbacks = [e["message"] for e in events(tmp_path / "run") if e.get("kind") == "rollback"]
    assert "step_00000004" in rollbacks[0] and "[[40, 56]]" in rollbacks[0]
    # The second time one checkpoint further back, and all that was bad so far is left out.
    assert "step_00000002" in rollbacks[1] and "[[40, 72]]" in rollbacks[1]
    left = tmp_path / "run" / "checkpoints"
    assert (left / "latest").read_text() == "step_00000004\n"  # made again after the second time
    assert (left / "step_00000004.left").is_dir()


def left_behind(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step_*"))


def test_a_save_that_is_due_while_updates_are_skipped_comes_after_them(
    alone: Alone, tmp_path: Path
) -> None:
    words = ["--training.train_steps", "10", "--checkpoint.save_interval", "4"]
    assert alone("run", {"nan": [[3 * BATCH, 0]]}, *words)[0] == 0
    saves = [e["step"] for e in events(tmp_path / "run") if e["event"] == "checkpoint"]
    assert saves == [5, 8, 10]


def test_stopped_in_the_midst_of_trouble(alone: Alone, tmp_path: Path) -> None:
    """A signal with a skipped update: saved, and the one before stays. A signal with the decision to go back:
    nothing is saved, and the next start decides the same."""
    words = ["--training.train_steps", "10", "--checkpoint.keep_last", "1"]
    bad = [4 * BATCH, 5 * BATCH]
    plan = {"nan": [[ordinal, 0] for ordinal in bad]}
    run = tmp_path / "run"
    assert alone("run", {**plan, "stop": bad[:1]}, *words)[0] == 75
    assert left_behind(run) == ["step_00000004", "step_00000005"]
    assert alone("run", {**plan, "stop": bad[1:]}, *words)[0] == 75
    assert left_behind(run) == ["step_00000004", "step_00000005"]
    assert [e["event"] for e in events(run)][-1] == "stop" and "rollback" not in kinds_of(run)
    assert alone("run", plan, *words)[0] == 0
    assert kinds_of(run) == ["not_finite", "not_finite", "not_finite", "rollback"]
    assert "step_00000004" in [e for e in events(run) if e.get("kind") == "rollback"][0]["message"]
    left_out = {"left_out": [[bad[0], bad[1] + BATCH]]}
    assert alone("straight", left_out, *words)[0] == 0
    assert_equal_checkpoints(tmp_path / "straight", run)


def test_back_twice_past_a_damaged_checkpoint_and_stopped_after_it(
    alone: Alone, tmp_path: Path
) -> None:
    words = ["--training.train_steps", "14", "--checkpoint.keep_last", "3"]
    plan = {"nan": [[n * BATCH, 0] for n in range(8, 12)], "cut": [[8 * BATCH, 8]]}
    run = tmp_path / "run"
    assert alone("run", {**plan, "stop": [13 * BATCH]}, *words)[0] == 75
    assert alone("run", {}, *words)[0] == 0
    told = [e for e in events(run) if e.get("kind") in ("rollback", "checkpoint_passed_over")]
    assert [e.get("gone_to") for e in told] == [6, None, 4]
    assert "step_00000008 is passed over" in told[1]["message"]
    assert "[[64, 96]]" in told[2]["message"]
    steps = [e["step"] for e in events(run) if e["event"] == "step"]
    assert steps == [*range(1, 11), 7, 8, 9, 10, *range(5, 15)]
    assert summarise(run)["step"] == 14
    assert alone("straight", {"left_out": [[8 * BATCH, 12 * BATCH]]}, *words)[0] == 0
    assert_equal_checkpoints(tmp_path / "straight", run)


def test_nothing_to_go_back_to(alone: Alone) -> None:
    bad = {"nan": [[n * BATCH, 0] for n in range(5)]}
    code, said = alone("run", bad)
    assert code == 2 and "no checkpoint from before" in said and "Traceback" not in said


def test_missed_saves_end_the_run_in_the_end(alone: Alone, tmp_path: Path) -> None:
    with small_disk(tmp_path / "run" / "checkpoints", megabytes=1) as is_mounted:
        if not is_mounted:
            pytest.skip("needs a mount for the full disk: run as root")
        code, said = alone("run", {}, "--faults.max_missed_saves", "2")
    assert code == 2 and "Traceback" not in said
    assert "3 saves one after another failed (faults.max_missed_saves 2)" in said
    assert kinds_of(tmp_path / "run") == ["save_missed"] * 3
    steps = [e["step"] for e in events(tmp_path / "run") if e["event"] == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]
