"""When a job ends, as Slurm says it, and what still fits before."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from megatron_dream.config.schema import WatchConfig
from megatron_dream.training.watch.time_limit import TimeLimit, slurm_end

NOW = 1_700_000_000.0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds since NOW, for the test to set."""
    clock = [0.0]
    monkeypatch.setattr(time, "time", lambda: NOW + clock[0])
    return clock


def limit_of(minutes: float, **given: float) -> TimeLimit:
    config = WatchConfig(time_limit_minutes=minutes, time_limit_margin_seconds=10, **given)  # type: ignore[arg-type]
    return TimeLimit(config, NOW, None)


def test_no_limit_is_never_reached(now: list[float]) -> None:
    now[0] = 1e9
    assert not TimeLimit(WatchConfig(), NOW, None).is_reached(1e9, 1e9)


def test_the_last_save_ends_before_the_limit(now: list[float]) -> None:
    limit = limit_of(10)
    for now[0], expected in ((519.0, False), (520.0, True)):
        assert limit.is_reached(30.0, 40.0) is expected  # 30 + 40 + 10 before 600


def test_before_a_save_was_measured_a_part_is_put_aside(now: list[float]) -> None:
    long, short = limit_of(120, unmeasured_save_seconds=300), limit_of(2)
    now[0] = 7200 - 300 - 10 - 1
    assert not long.is_reached(0.0, None)
    now[0] += 1
    assert long.is_reached(0.0, None)
    now[0] = 89.0  # a quarter of two minutes, though 310 seconds were asked for
    assert not short.is_reached(0.0, None)
    now[0] = 91.0
    assert short.is_reached(0.0, None)


def test_the_earlier_limit_counts_and_slurm_may_extend_its_own(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: moments[0])
    asked: list[float] = []

    def ask() -> float:
        asked.append(now[0])
        return NOW + 5000

    limit = TimeLimit(WatchConfig(time_limit_margin_seconds=0), NOW, NOW + 1000, ask)
    now[0] = moments[0] = 995.0
    assert not limit.is_reached(10.0, 0.0) and asked == [995.0]
    assert limit.end == NOW + 5000
    now[0] = 4995.0
    assert limit.is_reached(10.0, 0.0) and len(asked) == 1, "not asked at every step"
    at_once = TimeLimit(WatchConfig(time_limit_margin_seconds=0), NOW, NOW + 1000, ask)
    now[0] = moments[0] = 999.0
    assert not at_once.is_reached(10.0, 0.0), "asked although it has only begun"
    own = TimeLimit(WatchConfig(time_limit_minutes=1), NOW, NOW + 1000, ask)
    assert own.end == NOW + 60


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_slurm_says_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin:/bin")
    assert slurm_end({}) is None
    now = time.time()
    assert slurm_end({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(now) + 60)}) > now
    for none in ("0", "1700000060", "UNLIMITED", "INVALID", ""):  # nobody can be asked yet
        assert slurm_end({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": none}) is None
    program(tmp_path, "squeue", 'test "$3" = 7 && echo 2023-11-14T22:14:20')
    expected = datetime.datetime(2023, 11, 14, 22, 14, 20).timestamp()
    assert slurm_end({"SLURM_JOB_ID": "7"}) == expected
    for answer in ("N/A", "NONE", ""):
        program(tmp_path, "squeue", f"echo {answer}")
        program(tmp_path, "scontrol", "echo EndTime=Unknown Deadline=N/A")
        assert slurm_end({"SLURM_JOB_ID": "7"}) is None
    program(tmp_path, "squeue", 'test "$3" = 7_2 && echo 2023-11-14T22:14:20')
    array = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    assert slurm_end(array) == expected
    program(tmp_path, "squeue", "exit 1")
    program(tmp_path, "scontrol", "echo '   StartTime=x EndTime=2023-11-14T22:14:20 Deadline=N/A'")
    assert slurm_end({"SLURM_JOB_ID": "7"}) == expected
