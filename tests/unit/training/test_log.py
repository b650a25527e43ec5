"""The log over several starts: whole lines, one run at W&B, no step twice in TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.config.schema import LoggingConfig
from megatron_dream.training.log import RunLog, read_log

WANDB = """
import json, os
calls = []
class Run:
    def log(self, values): calls.append(("log", values))
    def finish(self): calls.append(("finish", None))
def init(**words):
    calls.append(("init", words))
    return Run()
def define_metric(name, step_metric): calls.append(("metric", (name, step_metric)))
"""
VALUES = {
    "loss": 1.0,
    "tokens_per_second": 2.0,
    "grad_norm": 3.0,
    "seconds_left": 0.0,
    "seconds": 2.0,
}


def log_steps(folder: Path, steps: range, first_step: int = 0, **config: Any) -> None:
    log = RunLog(folder, LoggingConfig(**config), 100, enabled=True, first_step=first_step)
    for step in steps:
        log.step(step, {**VALUES, "loss": float(step + 100 * first_step)})
    log.close()


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t")
    import wandb

    folder = tmp_path / "run"
    log_steps(folder, range(1, 4), wandb_project="p")
    log_steps(folder, range(3, 5), first_step=2, wandb_project="p")
    first, second = (words for name, words in wandb.calls if name == "init")
    assert first["id"] == second["id"] == (folder / "wandb_id").read_text()
    assert (first["project"], first["resume"], first["dir"]) == ("p", "allow", str(folder))
    assert wandb.calls.count(("metric", ("*", "step"))) == 2
    logged = [values for name, values in wandb.calls if name == "log"]
    assert [values["step"] for values in logged] == [1, 2, 3, 3, 4]
    assert logged[0]["train/loss"] == 1.0
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"s3cr3t" not in written
    log_steps(tmp_path / "other", range(1, 2), wandb_project="p")
    assert (tmp_path / "other" / "wandb_id").read_text() != first["id"]


def test_tensorboard_shows_steps_that_were_done_again_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log_steps(tmp_path, range(1, 9), tensorboard=True)
    log_steps(tmp_path, range(6, 8), first_step=5, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(one.step, one.value) for one in events.Scalars("train/loss")]
    assert shown == [*((step, float(step)) for step in range(1, 6)), (6, 506.0), (7, 507.0)]


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 3))
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text()[:-20])
    log_steps(tmp_path, range(2, 4), first_step=1)
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3]
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["step"] == 3


def test_records_stand_for_all_steps_since_the_last_one(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 8), interval=3)
    records = read_log(tmp_path)
    assert [(one["step"], one["seconds_since_record"]) for one in records] == [(3, 6.0), (6, 6.0)]


def test_whoever_listens_hears_every_record(tmp_path: Path) -> None:
    log = RunLog(tmp_path, LoggingConfig(), 5, enabled=True)
    heard: list[dict[str, Any]] = []
    log.listen(heard.append)
    log.event("fault", 3, kind="not_finite", message="x")
    log.listen(None)
    log.event("end", 4)
    log.close()
    assert [record["kind"] for record in heard] == ["not_finite"]
