"""Where a run's time went, on logs that can be added up by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.training.watch.goodput import Ledger, account

Record = dict[str, Any]


def record(event: str, step: int, time: float, **values: Any) -> Record:
    return {"event": event, "step": step, "time": time, **values}


# began at 100; killed after step 3, whose checkpoint was of step 2; queued from 160 to 200; steps 3 and 4
LOG = [
    record("start", 0, 110, began=100),
    record("step", 1, 120, seconds=10),
    record("step", 2, 130, seconds=10),
    record("checkpoint", 2, 135, seconds=5),
    record("validation", 2, 142, seconds=7),
    record("step", 3, 160, seconds=10),
    record("start", 2, 230, began=200),
    record("step", 3, 240, seconds=10),
    record("step", 4, 255, seconds=12, update="skipped"),
    record("step", 5, 265, seconds=10),
    record("end", 5, 270),
]


def test_every_second_has_a_name() -> None:
    found = account(LOG, 270)
    assert found.total == 170
    assert (found.counted, found.again, found.skipped) == (40, 10, 12)
    assert (found.start_up, found.between_starts) == (40, 40)
    assert (found.saves, found.validation) == (5, 7)
    assert found.other == 170 - 40 - 10 - 12 - 40 - 40 - 5 - 7
    assert sum(found.parts().values()) == pytest.approx(1.0)
    assert found.goodput == pytest.approx(40 / 170)


def test_a_run_that_stands_still_loses_time() -> None:
    assert account(LOG[:6], 160).total == 60
    assert account(LOG[:6], 1160).goodput == pytest.approx(30 / 1060)


def test_records_of_several_steps_count_as_many() -> None:
    log = [
        record("start", 0, 0.0),
        record("step", 10, 50, seconds=5, seconds_since_record=48),
    ]
    assert account(log, 50).counted == 48


def test_nothing_is_known_of_a_run_without_a_start() -> None:
    assert account([], 5.0).goodput is None
    assert account([record("step", 1, 3.0, seconds=1)], 5.0).parts() == {}


def test_a_step_is_lost_to_any_later_start() -> None:
    log = [
        *(record("start", 0, 0), record("step", 5, 10, seconds=10)),
        *(record("start", 4, 20), record("step", 5, 30, seconds=10)),
        *(record("start", 2, 40), record("step", 3, 50, seconds=10)),
    ]
    found = account(log, 50)
    assert (found.counted, found.again) == (10, 20)


def test_steps_that_the_run_went_back_from_are_lost() -> None:
    log = [
        *(record("start", 0, 0), record("step", 4, 10, seconds=10)),
        record("step", 5, 20, seconds=10),
        record("step", 6, 30, seconds=10, update="gone back"),
        record("fault", 6, 32, kind="rollback", gone_to=4),
        *(record("step", 5, 42, seconds=10), record("step", 6, 52, seconds=10)),
        *(record("start", 5, 60, began=55), record("step", 6, 70, seconds=10)),
    ]
    found = account(log, 70)
    assert (found.counted, found.again, found.skipped) == (30, 30, 0)
    assert account(log[:7], 52).counted == 30, "4, and 5 and 6 the second time"


def test_a_background_save_costs_what_training_waited() -> None:
    log = [record("start", 0, 0), record("checkpoint", 2, 50, seconds=40, stall_seconds=3)]
    assert account(log, 50).saves == 3


seconds = st.floats(0.01, 50).map(lambda value: round(value, 3))
steps = st.lists(st.tuples(seconds, st.sampled_from(["step", "checkpoint", "validation"])))


@given(st.lists(st.tuples(seconds, steps, seconds), min_size=1, max_size=5))
def test_a_ledger_agrees_with_the_whole_log(starts: list[Any]) -> None:
    """Kept up record by record, as the run does, or read again at each start: the same account."""
    log: list[Record] = []
    now = 1000.0
    for wait, happened, gap in starts:
        began, now = now + wait, now + wait + gap
        log.append(record("start", 0, now, began=began))
        ledger = Ledger(log, now)
        for number, (length, event) in enumerate(happened, start=1):
            now += length + 0.5
            log.append(record(event, number, now, seconds=length))
            ledger.add(log[-1])
    found, kept = account(log, now), ledger.now()
    for name, value in vars(found).items():
        assert getattr(kept, name) == pytest.approx(value, abs=1e-6), name
    assert sum(found.parts().values()) == pytest.approx(1.0)
