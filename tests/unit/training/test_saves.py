"""Saves that fail or are slow, by a writer that does what it is told; and which ordinals are left out."""

from types import SimpleNamespace

import pytest

from megatron_dream.checkpoint.metadata import CheckpointMetadata
from megatron_dream.checkpoint.save import Saved, SaveError
from megatron_dream.config.schema import RunConfig
from megatron_dream.errors import CheckpointError
from megatron_dream.training.faults.decision import Place
from megatron_dream.training.faults.rollback import skipped_ranges, taken_back
from megatron_dream.training.faults.saves import SaveKeeper
from megatron_dream.training.log import RunLog
from megatron_dream.training.status import read_log


class Writer:
    """Saves take as long as it is told, or fail; asynchronous ones come to their end in ``finish``."""

    def __init__(self, asynchronous=False):
        self.asynchronous, self.pending, self.seconds = asynchronous, None, 1.0

    def save(self, name, model, metadata, **_):
        self.pending = (name, metadata.step)
        return None if self.asynchronous else self.finish(wait=True)

    def finish(self, wait=False):
        if self.pending is None or not wait:
            return None
        (name, step), self.pending = self.pending, None
        if self.seconds is None:
            raise SaveError(f"checkpoint {name} cannot be written (rank 1: OSError)")
        return Saved(name, step, 5_000_000, self.seconds, 0.5)


@pytest.fixture(params=[False, True])
def keeper(request, tmp_path):
    config = RunConfig()
    config.checkpoint.run_folder = str(tmp_path)
    config.faults.max_missed_saves, config.faults.slow_save_seconds = 1, 10.0
    log = RunLog(tmp_path, config.logging, 10, enabled=True)
    return SaveKeeper(config, Writer(request.param), log)


def save(keeper, step, seconds, is_last=False):
    keeper._writer.seconds = seconds
    metadata = CheckpointMetadata(model={}, step=step)
    return keeper.save(f"step_{step}", [], metadata, None, None, is_last=is_last)


def said(tmp_path):
    return [(e["event"], e.get("kind"), e["step"]) for e in read_log(tmp_path)]


def test_one_missed_save_and_then_a_slow_one(keeper, tmp_path):
    save(keeper, 1, None)
    assert not keeper.look(1, wait=True) or keeper.missed == 1
    assert keeper.missed == 1
    save(keeper, 2, 20.0)
    assert keeper.look(2, wait=True) and keeper.missed == 0
    assert said(tmp_path) == [
        ("fault", "save_missed", 1), ("checkpoint", None, 2), ("fault", "slow_save", 2),
    ]  # fmt: skip
    message = read_log(tmp_path)[-1]["message"]
    assert "took 20 s (0.2 MB/s)" in message


def test_too_many_missed_saves(keeper):
    with pytest.raises(CheckpointError, match="2 saves one after another failed"):
        for step in (1, 2):
            save(keeper, step, None)
            keeper.look(step, wait=True)


def test_the_last_save_may_not_be_missed(keeper):
    with pytest.raises(CheckpointError, match="the last of the run"):
        save(keeper, 9, None, is_last=True)


def test_the_end_of_a_run_waits_for_what_is_under_way(tmp_path):
    config = RunConfig()
    log = RunLog(None, config.logging, 10, enabled=False)
    keeper = SaveKeeper(config, Writer(asynchronous=True), log)
    save(keeper, 1, None)
    with pytest.raises(CheckpointError, match="last checkpoint is missing"):
        keeper.end(2)
    dry = SaveKeeper(config, None, log)
    assert dry.look(1, wait=True)
    dry.end(1)
    dry.close()


def test_ordinals_that_are_left_out_join_those_before():
    """Samples are counted without what is left out: sample 24 is ordinal 40 after [8, 24)."""
    config = RunConfig()
    config.faults.rollback_extra_steps = 1
    metadata = CheckpointMetadata(model={}, skipped_ranges=[[8, 24]], new_stream=2)
    loop = SimpleNamespace(metadata=metadata, config=config, consumed=40, samples_a_step=8)
    position = CheckpointMetadata(model={}, step=2, consumed_samples=16, earlier_samples=5)
    ranges = skipped_ranges(loop, position, Place(step=3, consumed=24))
    assert ranges == [[8, 24], [32, 56]]
    back = taken_back(metadata, position, ranges)
    assert (back.step, back.consumed_samples, back.new_stream) == (2, 16, 2)
    assert (back.skipped_ranges, back.earlier_samples) == (ranges, 5)
    position.consumed_samples = 24  # nothing from before the checkpoint
    assert skipped_ranges(loop, position, Place(step=3, consumed=24)) == [[8, 24], [40, 56]]
