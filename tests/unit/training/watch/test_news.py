"""What people are told of a run that goes on, by way of its log."""

from __future__ import annotations

import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.config.schema import AlertsConfig, LoggingConfig
from megatron_dream.training.log import RunLog, read_log
from megatron_dream.training.watch import news as module
from megatron_dream.training.watch.news import News
from megatron_dream.training.watch.stragglers import Straggler


class Told:
    """Stands where alerts are sent from."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, int]] = []
        self.facts: list[dict[str, Any]] = []

    def send(self, kind: str, message: str, step: int = 0, **facts: Any) -> None:
        self.sent.append((kind, message, step))
        self.facts.append(facts)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def open_news(folder: Path, began: float, **config: Any) -> tuple[News, RunLog, Told]:
    log = RunLog(folder, LoggingConfig(), 100, enabled=True)
    log.event("start", 0, began=began)
    told = Told()
    return News(AlertsConfig(**config), folder, log, told), log, told  # type: ignore[arg-type]


def test_faults_and_ends_are_told_with_their_facts(tmp_path: Path, now: list[float]) -> None:
    _, log, told = open_news(tmp_path, now[0])
    log.event("step", 1, seconds=1.0)
    log.fault(2, "loss_spike", "loss 9", factor=3.0)
    log.fault(3, "empty_batch", "no group is informative", is_said=False)
    log.event("stop", 4, message="SIGTERM came", reason="signal")
    assert told.sent == [
        ("loss_spike", "loss 9", 2),
        ("stop", "SIGTERM came", 4),
    ]
    assert told.facts[0] == {"factor": 3.0}


def test_what_is_common_is_told_where_it_is_asked_for(tmp_path: Path, now: list[float]) -> None:
    _, log, told = open_news(tmp_path, now[0], kinds=["empty_batch"])
    log.fault(3, "empty_batch", "no group is informative", is_said=False)
    assert told.sent == [("empty_batch", "no group is informative", 3)]


def test_going_back_takes_its_steps_out_of_the_account(tmp_path: Path, now: list[float]) -> None:
    news, log, _ = open_news(tmp_path, now[0])
    for step in (1, 2, 3):
        now[0] += 10
        log.event("step", step, seconds=10.0, update="applied")
    assert (news.account().counted, news.account().again) == (30, 0)
    log.fault(3, "rollback", "gone back", gone_to=1)
    now[0] += 10
    log.event("step", 2, seconds=10.0, update="applied")
    assert (news.account().counted, news.account().again) == (20, 20)


def test_low_goodput_is_told_once_the_run_is_an_hour_old(tmp_path: Path, now: list[float]) -> None:
    news, log, told = open_news(tmp_path, now[0], low_goodput=0.5)
    now[0] += 3000
    log.event("step", 1, seconds=10.0)
    news.look()
    assert told.sent == []
    now[0] += 1000
    log.event("step", 2, seconds=10.0)
    news.look()
    assert told.sent == [("low_goodput", "goodput is 0.01", 2)]
    assert news.account().goodput == pytest.approx(20 / 4000)


def test_an_old_checkpoint_is_told_and_a_new_one_is_not(tmp_path: Path, now: list[float]) -> None:
    news, log, told = open_news(tmp_path, now[0], old_checkpoint_minutes=30)
    now[0] += 29 * 60
    news.look()
    log.event("checkpoint", 5, name="x", seconds=1.0)
    now[0] += 29 * 60
    news.look()
    assert told.sent == []
    now[0] += 120
    news.look()
    assert told.sent == [("old_checkpoint", "the last checkpoint is 31 minutes old", 5)]


def test_a_disk_that_fills_is_told(
    tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(int(1.5 * 2**30)))
    news, _, told = open_news(tmp_path, now[0], disk_free_gib=1.0)
    now[0] += 61
    news.look()
    assert told.sent == []
    news, _, told = open_news(tmp_path, now[0], disk_free_gib=2.0)
    news.look()
    assert told.sent == [], "looked at once a minute"
    now[0] += 61
    news.look()
    assert told.sent == [("disk", "1.5 GiB are free at the run folder", 0)]


def test_slow_ranks_stand_in_the_log(tmp_path: Path, now: list[float]) -> None:
    news, _, told = open_news(tmp_path, now[0])
    slow = [Straggler(rank, "n1", "own", 2.0, 1.0, 0.5) for rank in range(6)]
    news.slow(slow, 50)
    record = read_log(tmp_path)[-1]
    assert (record["event"], len(record["ranks"]), record["ranks"][5]["rank"]) == (
        "straggler",
        6,
        5,
    )
    assert record["message"].endswith("; 2 more") and record["message"].count("rank ") == 4
    assert told.sent[0][0] == "straggler" and told.facts[0]["ranks"] == record["ranks"]
