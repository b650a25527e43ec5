"""Exports beside the training: one at a time, of finished checkpoints, which stay until then."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.checkpoint.metadata import CheckpointMetadata, write_metadata
from megatron_dream.checkpoint.room import Kept, remove_old
from megatron_dream.checkpoint.save import step_folder
from megatron_dream.launcher import launched
from megatron_dream.training import background_export
from megatron_dream.training.background_export import BackgroundExports

STEP = {
    **{"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    **{"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"},
}


class Child:
    """An export that ends when it is told."""

    def __init__(self, command: list[str], log: Any) -> None:
        self.checkpoint, self.target = Path(command[3]), Path(command[4])
        self.returncode: int | None = None
        self._log = log

    def end(self, code: int = 0, words: str = "") -> None:
        if words:
            Path(self._log.name).write_text(words)
        self.returncode = code

    def kill(self) -> None:
        self.returncode = -9

    def wait(self, seconds: float = 0.0) -> None:
        if self.returncode is None:
            raise subprocess.TimeoutExpired("export", seconds)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    started: list[Child] = []

    def start(command: list[str], *, env: dict[str, str], stdout: Any, **_: Any) -> Child:
        assert launched(env).world_size == 1 and env["CUDA_VISIBLE_DEVICES"] == ""
        started.append(Child(command, stdout))
        return started[-1]

    for name, value in STEP.items():  # as a task of srun, which torch is told as torchrun would
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(background_export.subprocess, "Popen", start)
    return started


def complete(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / step_folder(step)).mkdir(parents=True)
        write_metadata(folder / step_folder(step), CheckpointMetadata(model={}, step=step))


def test_one_at_a_time_and_only_finished_ones(tmp_path: Path, children: list[Child]) -> None:
    told: list[str] = []
    exports = BackgroundExports(tmp_path, "t.model", told.append)
    exports.ask(step_folder(2))
    assert not children and exports.names() == {step_folder(2)}, "it is still being written"
    complete(exports.checkpoints, 2, 4, 6)
    assert exports.tend() is False and children[0].checkpoint.name == step_folder(2)
    exports.ask(step_folder(4))
    exports.ask(step_folder(6))
    assert len(children) == 1 and "step_00000004 is not exported" in told[0]
    assert exports.names() == {step_folder(2), step_folder(6)}
    children[0].end()
    assert exports.tend() is False and children[1].target == exports.folder / step_folder(6)
    children[1].end(2, "warning\nerror: no room")
    assert exports.tend(5.0) is True and exports.names() == set()
    assert told[1].startswith("export of step_00000006 failed (error: no room)")
    assert not (exports.folder / "step_00000002.log").exists()


def test_an_export_that_cannot_begin_is_told_and_not_raised(
    tmp_path: Path, children: list[Child]
) -> None:
    told: list[str] = []
    exports = BackgroundExports(tmp_path, "t.model", told.append)
    complete(exports.checkpoints, 2)
    exports.folder.write_text("a file where the folder would be")
    exports.ask(step_folder(2))
    assert not children and exports.names() == set()
    assert told[0].startswith("export of step_00000002 cannot begin")


def test_exports_of_weights_that_the_run_left_are_set_aside(
    tmp_path: Path, children: list[Child]
) -> None:
    told: list[str] = []
    exports = BackgroundExports(tmp_path, "t.model", told.append)
    complete(exports.checkpoints, 2, 4, 6, 8)
    for step in (2, 4):
        (exports.folder / step_folder(step)).mkdir(parents=True)
        for name in ("config.json", "modeling_dream.py"):
            (exports.folder / step_folder(step) / name).touch()
    (exports.folder / step_folder(9)).mkdir()  # somebody else's
    exports.ask(step_folder(6))
    exports.ask(step_folder(8))
    exports.leave(3)
    assert children[0].returncode == -9 and exports.names() == set()
    left = sorted(path.name for path in exports.folder.iterdir() if path.is_dir())
    assert left == ["step_00000002", "step_00000004.left", "step_00000009"]
    exports.ask(step_folder(6))
    exports.leave(6)
    assert exports.names() == {step_folder(6)} and not told


def test_what_is_read_or_kept_for_good_is_not_removed(tmp_path: Path) -> None:
    complete(tmp_path, 10, 20, 30, 40, 50, 60)
    (tmp_path / "latest").write_text(step_folder(60))
    remove_old(tmp_path, Kept(2, 20, frozenset({step_folder(30)})))
    assert sorted(p.name for p in tmp_path.glob("step_*")) == [
        step_folder(step) for step in (20, 30, 40, 50, 60)
    ]
    remove_old(tmp_path, Kept(2))
    assert sorted(p.name for p in tmp_path.glob("step_*")) == [step_folder(50), step_folder(60)]


def test_leftovers_of_killed_exports_go(tmp_path: Path) -> None:
    exports = BackgroundExports(tmp_path, "t.model", print)
    (exports.folder / ".step_00000002.123.tmp").mkdir(parents=True)
    (exports.folder / "step_00000001").mkdir()
    exports.clean()
    assert [path.name for path in exports.folder.iterdir()] == ["step_00000001"]
