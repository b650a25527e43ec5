"""Exports of a run: which one is made up for, what is told, and that nobody waits without end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_dream.checkpoint.metadata import FILE_NAME
from megatron_dream.checkpoint.save import step_folder
from megatron_dream.config.schema import RunConfig
from megatron_dream.training import exports as module
from megatron_dream.training.exports import ExportKeeper
from megatron_dream.training.watch.watch import Stop


class Background:
    """Stands where exports are made: ``busy`` looks find it at work."""

    def __init__(self, run_folder: Path, tokenizer: str, report: Any) -> None:
        self.checkpoints, self.folder = (
            Path(run_folder) / "checkpoints",
            Path(run_folder) / "exports",
        )
        self.asked: list[str] = []
        self.busy, self.is_closed, self.report = 0, False, report

    def names(self) -> set[str]:
        return set()

    def clean(self) -> None: ...

    def ask(self, name: str) -> None:
        self.asked.append(name)

    def leave(self, step: int) -> None:
        self.left_from = step

    def tend(self, seconds: float = 0.0) -> bool:
        self.busy -= 1
        return self.busy < 0

    def close(self) -> None:
        self.is_closed = True


class Told:
    """A log that keeps faults, and a watch that keeps rounds."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, str, str]] = []
        self.rounds = 0
        self.stop: Stop | None = None

    def fault(self, step: int, kind: str, message: str) -> None:
        self.faults.append((step, kind, message))

    def goes_on(self) -> None:
        self.rounds += 1

    def agree(self, upcoming: Any) -> Stop | None:
        return self.stop


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BackgroundExports", Background)
    monkeypatch.setattr(module.parallel, "broadcast_object", lambda value: value)


def keeper(folder: Path, step: int = 0, minutes: float = 1.0) -> tuple[ExportKeeper, Any, Told]:
    config = RunConfig()
    config.checkpoint.run_folder, config.checkpoint.export_interval = str(folder), 10
    config.faults.save_timeout_minutes = minutes
    removed: list[bool] = []
    writer: Any = SimpleNamespace(is_read=None, remove_old=lambda: removed.append(True))
    told, ranks = Told(), SimpleNamespace(rank=0)
    made = ExportKeeper(config, writer, told, ranks, step)  # type: ignore[arg-type]
    return made, removed, told


def complete(folder: Path, *steps: int) -> None:
    for step in steps:
        path = folder / "checkpoints" / step_folder(step)
        path.mkdir(parents=True)
        (path / FILE_NAME).write_text("{}")


def test_the_newest_that_was_due_is_made_up_for(tmp_path: Path) -> None:
    complete(tmp_path, 10, 20, 25, 30)
    made, _, _ = keeper(tmp_path, step=25)
    assert made._exports.asked == [step_folder(20)]  # type: ignore[union-attr]
    assert made._exports.left_from == 25  # type: ignore[union-attr]
    (tmp_path / "exports" / step_folder(20)).mkdir(parents=True)
    made, _, _ = keeper(tmp_path, step=25)
    assert made._exports.asked == []  # type: ignore[union-attr]


def test_checkpoints_between_are_not_exported(tmp_path: Path) -> None:
    made, _, _ = keeper(tmp_path)
    for last, step in ((0, 5), (5, 10), (10, 15), (15, 21)):  # the save of 20 had to wait
        made.saved(step_folder(step), step, last)
    assert made._exports.asked == [step_folder(10), step_folder(21)]  # type: ignore[union-attr]


def test_the_end_waits_for_the_last_one_in_rounds(tmp_path: Path) -> None:
    made, removed, told = keeper(tmp_path)
    made._exports.busy = 3  # type: ignore[union-attr]
    made._exports.report("export of x failed")  # type: ignore[union-attr]
    assert made.finish(40, told) is None  # type: ignore[arg-type]
    assert told.rounds == 3 and removed
    assert told.faults == [(40, "export_missed", "export of x failed")]


def test_an_export_without_end_is_given_up(tmp_path: Path) -> None:
    made, removed, told = keeper(tmp_path, minutes=0.0)
    made._exports.busy = 10**9  # type: ignore[union-attr]
    assert made.finish(40, told) is None  # type: ignore[arg-type]
    assert made._exports.is_closed and removed  # type: ignore[union-attr]
    ((step, kind, message),) = told.faults
    assert (step, kind) == (40, "export_missed") and "save_timeout_minutes" in message


def test_a_wish_to_stop_ends_the_waiting(tmp_path: Path) -> None:
    made, removed, told = keeper(tmp_path)
    made._exports.busy, told.stop = 10**9, Stop("signal", 75, "SIGTERM came")  # type: ignore[union-attr]
    assert made.finish(40, told) is told.stop  # type: ignore[arg-type]
    assert not removed and told.rounds == 1
