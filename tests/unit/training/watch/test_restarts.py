"""Starts of a run on record, and the end of starting in vain."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dream import exit_codes
from megatron_dream.config.schema import RunConfig
from megatron_dream.errors import ConfigError
from megatron_dream.training.watch.ends import read_end, write_end, write_refusal
from megatron_dream.training.watch.restarts import fingerprint, read_restarts, record_start


def start(folder: Path, step: int, config: RunConfig | None = None) -> dict[str, Any]:
    return record_start(
        folder, config or RunConfig(), step=step, layout="world size 2", hosts=["a", "b"], began=1.0
    )


def test_a_record_says_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    start(tmp_path, 0)
    write_end(tmp_path, "signal", 7, exit_codes.AGAIN, "SIGTERM came")
    start(tmp_path, 7)
    first, second = read_restarts(tmp_path)
    assert (first["start"], first["step"], first["previous_end"]) == (1, 0, None)
    assert (second["job"], second["restart_count"], second["hosts"]) == ("42", 2, ["a", "b"])
    assert second["previous_end"]["message"] == "SIGTERM came"
    assert read_end(tmp_path) is None, "a running start has not ended"


def test_three_starts_at_one_step_are_enough(tmp_path: Path) -> None:
    for _ in range(3):
        start(tmp_path, 40)
    with pytest.raises(ConfigError) as refused:
        start(tmp_path, 40)
    for part in ("3 starts", "step 40", "restarts.jsonl", "--watch.max_starts_without_progress 0"):
        assert part in str(refused.value)
    assert refused.value.exit_code == exit_codes.BAD_INPUT
    assert len(read_restarts(tmp_path)) == 3, "what is refused is no start"
    lenient = RunConfig()
    lenient.watch.max_starts_without_progress = 0
    start(tmp_path, 40, lenient)
    with pytest.raises(ConfigError):
        start(tmp_path, 40)
    (tmp_path / "restarts.jsonl").unlink()
    start(tmp_path, 40)


def test_progress_and_a_changed_configuration_begin_anew(tmp_path: Path) -> None:
    changed = RunConfig()
    changed.training.micro_batch_size = 2
    for step, config in (
        (5, None),
        (5, None),
        (6, None),
        (6, None),
        (6, changed),
        (6, None),
        (6, None),
    ):
        start(tmp_path, step, config)
    start(tmp_path, 6)
    with pytest.raises(ConfigError, match="3 starts"):
        start(tmp_path, 6)


@pytest.mark.parametrize(
    "reason, counts", [("done", 0), ("interrupted", 0), ("hang", 1), ("error", 1)]
)
def test_wanted_ends_do_not_count(tmp_path: Path, reason: str, counts: int) -> None:
    for _ in range(4):
        try:
            start(tmp_path, 3)
        except ConfigError:
            assert counts
            return
        write_end(tmp_path, reason, 3, 1, "")
    start(tmp_path, 3)
    assert not counts


def test_a_refusal_is_what_a_script_reads_and_hides_no_end(tmp_path: Path) -> None:
    start(tmp_path, 0)
    write_end(tmp_path, "interrupted", 3, exit_codes.INTERRUPTED, "Ctrl-C")
    for message in ("bad data", "bad data again"):
        write_refusal(tmp_path, exit_codes.BAD_INPUT, message)
        assert read_end(tmp_path)["exit_code"] == exit_codes.BAD_INPUT  # type: ignore[index]
    record = start(tmp_path, 0)
    assert record["previous_end"]["message"] == "Ctrl-C"
    write_refusal(tmp_path / "absent", 2, "no folder, no error")


def test_a_cut_line_hides_no_other(tmp_path: Path) -> None:
    start(tmp_path, 1)
    path = tmp_path / "restarts.jsonl"
    path.write_text(path.read_text() + '{"start": 2, "st')
    start(tmp_path, 2)
    assert [one["step"] for one in read_restarts(tmp_path)] == [1, 2]


def test_who_knows_first_says_why_it_ended(tmp_path: Path) -> None:
    assert write_end(tmp_path, "hang", 3, exit_codes.HANG, "rank 1")
    assert not write_end(tmp_path, "error", 3, 1, "gloo says that rank 1 is gone")
    assert read_end(tmp_path)["message"] == "rank 1"  # type: ignore[index]
    assert not write_end(tmp_path / "absent", "error", 3, 1, "no folder, no error")
    (tmp_path / "end.json").write_text('{"reas')
    assert read_end(tmp_path) is None


def test_the_watch_is_no_part_of_what_a_run_is() -> None:
    config = RunConfig()
    other = copy.deepcopy(config)
    other.watch.step_limit_seconds, other.alerts.low_goodput = 1.0, 0.5
    assert fingerprint(other) == fingerprint(config)
    other.optimizer.lr = 1.0
    assert fingerprint(other) != fingerprint(config)
    json.dumps(fingerprint(config))
