"""A log on a disk that fills up: lines are whole or not there, and nothing is raised."""

import json
import math
import resource
import signal
from contextlib import contextmanager

import pytest

from megatron_dream.config.schema import LoggingConfig
from megatron_dream.training.line_file import LineFile
from megatron_dream.training.log import RunLog
from megatron_dream.training.status import read_log


@contextmanager
def files_end_at(size):
    """A stand-in for a full disk: writes beyond ``size`` bytes of a file fail (EFBIG), after a part."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_that_does_not_fit_is_left_out_whole(tmp_path):
    path = tmp_path / "log.jsonl"
    file = LineFile(path)
    assert file.write({"n": 1})
    with files_end_at(path.stat().st_size + 3):
        assert not file.write({"n": 2}) and not file.write({"n": 3})
        assert file.num_lost == 2 and file.fault
    assert lines(path) == [{"n": 1}]
    assert file.write({"n": 4}) and file.num_lost == 0
    assert lines(path) == [{"n": 1}, {"n": 4}]
    file.close()


@pytest.mark.parametrize("left", ['{"n": 1}\n', '{"n": 1}\n{"n": ', '{"n"', ""])
def test_a_line_that_a_crash_cut_off_goes(tmp_path, left):
    path = tmp_path / "log.jsonl"
    path.write_text(left)
    file = LineFile(path)
    file.write({"n": 2})
    assert lines(path)[-1] == {"n": 2} and len(lines(path)) == 1 + left.count("\n")


def test_numbers_that_are_not_finite_become_null(tmp_path):
    file = LineFile(tmp_path / "log.jsonl")
    file.write({"a": math.nan, "b": [{"c": math.inf}], "d": (1.5, "NaN")})
    assert lines(tmp_path / "log.jsonl") == [{"a": None, "b": [{"c": None}], "d": [1.5, "NaN"]}]


def test_a_full_disk_is_said_once_and_the_loss_told_afterwards(tmp_path, capfd):
    log = RunLog(tmp_path, LoggingConfig(), 10, enabled=True)
    log.event("start", 0)
    heard = []
    log.listen(heard.append)
    with files_end_at((tmp_path / "log.jsonl").stat().st_size + 5):
        for step in range(3):
            log.event("step", step)
    assert capfd.readouterr().err.count("cannot be written") == 1
    # Whoever listens is told at once: there may never be room again.
    assert [one.get("kind") for one in heard] == ["log_lost", None, None, None]
    log.event("step", 3)
    log.close()
    events = read_log(tmp_path)
    assert [event["event"] for event in events] == ["start", "step", "fault"]
    assert events[-1]["kind"] == "log_lost" and events[-1]["message"].startswith("3 records")


def test_a_sink_that_breaks_is_left_out(tmp_path, capfd):
    class Broken:
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

        log = add_scalar

    log = RunLog(tmp_path, LoggingConfig(), 10, enabled=True)
    log._board = log._wandb = Broken()
    values = {"loss": 1.0, "tokens_per_second": 1.0, "grad_norm": 1.0, "seconds_left": 1.0}
    for step in (1, 2):
        log.step(step, values)
    assert log._board is None and log._wandb is None
    kinds = [event.get("kind") for event in read_log(tmp_path)]
    assert kinds == [None, "log_lost", "log_lost", None]
