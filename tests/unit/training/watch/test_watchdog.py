"""A process that cannot go on ends, even where Python itself cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_dream import exit_codes

PROGRAM = """
import ctypes, sys, time
from pathlib import Path
from megatron_dream.config.schema import WatchConfig
from megatron_dream.training.watch.board import Board
from megatron_dream.training.watch.watchdog import Watchdog

kind, folder = sys.argv[1], Path(sys.argv[2])
config = WatchConfig(step_limit_seconds=1, hang_grace_seconds=1, heartbeat_seconds=0.1)
config.start_limit_seconds = config.first_step_limit_seconds = 1
told = []
board = None if kind == "dry" else Board(folder, 0, "launch")
dog = Watchdog(config, 0, 1, board, None if kind == "dry" else folder, lambda *words: told.append(words))
if kind == "deaf":
    ctypes.PyDLL(None).sleep(1000)  # a library that keeps Python's lock
if kind == "stuck":
    dog.on_hang = lambda *words: time.sleep(1000)  # as a disk that does not answer
if kind == "good":
    for _ in range(30):
        dog.enter("update", 1)
        time.sleep(0.1)
    dog.close()
    sys.exit(7)
if kind == "off":
    dog.limits = type(dog.limits)(WatchConfig(step_limit_seconds=0))
    dog.enter("update", 1)
    time.sleep(2.5)
    dog.close()
    sys.exit(7)
time.sleep(1000)
"""


def run(kind: str, folder: Path, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(folder)],
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("kind", ["python", "stuck", "dry"])
def test_a_phase_that_takes_too_long_ends_the_process(
    kind: str, tmp_path: Path, repository_root: Path
) -> None:
    done = run(kind, tmp_path, repository_root)
    assert done.returncode == exit_codes.HANG
    assert "HANG: rank 0" in done.stderr and "phase start" in done.stderr
    if kind == "dry":
        assert (
            list(tmp_path.iterdir()) == [] and "main thread, most recent call first" in done.stderr
        )
        return
    assert "in <module>" in (tmp_path / "stacks" / "rank-0000.txt").read_text()


def test_where_python_cannot_run_the_stack_is_still_written(
    tmp_path: Path, repository_root: Path
) -> None:
    done = run("deaf", tmp_path, repository_root)
    assert done.returncode == exit_codes.FOUND  # all that faulthandler's timer knows
    assert "<module>" in (tmp_path / "stacks" / "rank-0000.txt").read_text()


@pytest.mark.parametrize("kind", ["good", "off"])
def test_progress_and_no_limit_are_left_alone(
    kind: str, tmp_path: Path, repository_root: Path
) -> None:
    done = run(kind, tmp_path, repository_root)
    assert (done.returncode, done.stderr) == (7, "")
    assert list((tmp_path / "stacks").iterdir()) == [], "no empty file stays"
