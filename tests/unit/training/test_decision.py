"""The decision on an update: numbers in, verdict out."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.config.schema import FaultsConfig
from megatron_dream.training.faults.decision import (
    Action,
    Detector,
    DetectorState,
    Place,
    SavedPlace,
    gone_back,
    rollback_order,
    samples_to_skip,
)

CONFIG = FaultsConfig(spike_window=5, patience=2, max_skips_in_window=4, grad_norm_spike_floor=1.0)
BATCH = 8


def detector(state=None, looks_at_loss=True, **changes):
    config = FaultsConfig(**{**vars(CONFIG), **changes})
    return Detector(config, state, looks_at_loss=looks_at_loss)


def feed(judge, numbers, first=0):
    """Verdicts on (loss, norm) of one step after another."""
    return [judge.decide(n, n * BATCH, *pair) for n, pair in enumerate(numbers, first)]


def full(**changes):
    """A detector whose window is full of loss 2 and norm 1."""
    judge = detector(**changes)
    feed(judge, [(2.0, 1.0)] * 5)
    return judge


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_is_skipped_from_the_first_step_on(bad, place):
    pair = [2.0, 1.0]
    pair[place] = bad
    verdict = detector().decide(0, 0, *pair)
    assert (verdict.action, verdict.kind) == (Action.SKIP, "not_finite")
    assert ("loss" in verdict.reason) == (place == 0)


@pytest.mark.parametrize(
    "loss, norm, is_spike",
    [(5.9, 9.9, False), (6.1, 1.0, True), (2.0, 10.1, True), (0.0, 0.0, False)],
)
def test_a_spike_is_more_than_a_factor_times_the_median(loss, norm, is_spike):
    kind = full().decide(5, 40, loss, norm).kind
    assert kind == (("loss_spike" if loss > 5 else "gradient_spike") if is_spike else "")


def test_no_spike_before_the_window_is_full():
    judge = detector()
    verdicts = feed(judge, [(2.0, 1.0)] * 4 + [(1e6, 1e6)])
    assert all(v.action is Action.APPLY for v in verdicts)


def test_small_numbers_are_no_spikes():
    """A loss of 0.001 that becomes 0.01, and a norm that no clipping would touch."""
    judge = detector()
    feed(judge, [(0.001, 0.01)] * 5)
    assert judge.decide(5, 40, 0.1, 0.9).action is Action.APPLY
    assert judge.decide(6, 48, 0.6, 0.01).kind == "loss_spike"
    assert judge.decide(7, 56, 0.1, 1.1).kind == "gradient_spike"


def test_off_is_off_and_a_negative_loss_is_none():
    judge = full(loss_spike_factor=0.0, grad_norm_spike_factor=0.0)
    assert judge.decide(5, 40, 1e9, 1e9).action is Action.APPLY
    judge = full(looks_at_loss=False)
    assert judge.decide(5, 40, 1e9, 1.0).action is Action.APPLY
    assert judge.decide(6, 48, -1.0, 100.0).kind == "gradient_spike"


def test_a_skipped_update_does_not_move_the_median():
    judge = full(patience=99, max_skips_in_window=99)
    feed(judge, [(50.0, 1.0)] * 20, first=5)
    assert judge.state.losses == [2.0] * 5
    assert judge.decide(30, 240, 2.1, 1.0).action is Action.APPLY


def test_patience_and_then_back():
    judge = full()
    verdicts = feed(judge, [(math.nan, 1.0)] * 3, first=5)
    assert [v.action for v in verdicts] == [Action.SKIP, Action.SKIP, Action.GO_BACK]
    assert verdicts[-1].since == Place(5, 40, 5, "not_finite")


def test_norms_that_stay_high_are_the_new_normal():
    """The loss is as ever: skipping would go on for ever, and going back mends nothing."""
    judge = full()
    verdicts = feed(judge, [(2.0, 50.0)] * 12, first=5)
    assert [v.action for v in verdicts] == [Action.SKIP] * 2 + [Action.APPLY] * 10
    assert verdicts[2].kind == "new_normal" and {v.kind for v in verdicts[3:]} == {""}
    assert judge.state.grad_norms == [50.0] * 5 and judge.state.skipped_total == 2
    assert judge.decide(17, 136, 2.0, 501.0).kind == "gradient_spike"


def test_a_loss_among_them_is_not():
    judge = full()
    verdicts = feed(judge, [(2.0, 50.0), (9.0, 50.0), (2.0, 50.0)], first=5)
    assert verdicts[-1].action is Action.GO_BACK and verdicts[-1].since.step == 5


def test_many_high_norms_in_a_window_are_the_new_normal():
    judge = full(patience=9, max_skips_in_window=1)
    verdicts = feed(judge, [(2.0, 50.0), (2.0, 1.0), (2.0, 50.0)], first=5)
    assert verdicts[-1].kind == "new_normal" and verdicts[-1].action is Action.APPLY


def test_too_many_in_the_window_although_none_in_a_row():
    judge = full(patience=9, max_skips_in_window=2)
    numbers = [(math.nan, 1.0), (2.0, 1.0)] * 3
    verdicts = feed(judge, numbers, first=5)
    assert [v.action for v in verdicts][:4] == [
        Action.SKIP, Action.APPLY, Action.SKIP, Action.APPLY,
    ]  # fmt: skip
    assert verdicts[4].action is Action.GO_BACK and verdicts[4].since.step == 5
    judge = full(patience=9, max_skips_in_window=2)
    numbers = [(math.nan, 1.0), (2.0, 1.0), (2.0, 1.0)] * 3  # two in any five
    assert Action.GO_BACK not in {v.action for v in feed(judge, numbers, first=5)}


def test_the_count_of_rollbacks_ends_when_the_place_is_passed():
    state = DetectorState(rollbacks=2, trouble_step=10, gone_to=8)
    judge = detector(state)
    feed(judge, [(2.0, 1.0)] * 7, first=8)
    assert judge.state.rollbacks == 2
    feed(judge, [(2.0, 1.0)], first=15)
    assert (judge.state.rollbacks, judge.state.gone_to) == (0, None)


def test_the_state_after_going_back():
    judge = full()
    feed(judge, [(math.nan, 1.0)] * 3, first=5)
    then = DetectorState(losses=[1.0], updates=4)
    state = gone_back(judge.state, then, step=8, gone_to=4)
    assert (state.losses, state.updates, state.in_row, state.skipped) == ([1.0], 4, 0, [])
    assert (state.rollbacks, state.trouble_step, state.gone_to) == (1, 8, 4)
    assert state.skipped_total == 3


numbers = st.tuples(
    st.one_of(st.floats(0, 20), st.just(math.nan)), st.one_of(st.floats(0, 50), st.just(math.inf))
)


@given(st.lists(numbers, max_size=40), st.integers(0, 40))
def test_a_resumed_run_decides_as_one_that_never_stopped(sequence, cut):
    """The state goes through JSON, as it does in a checkpoint."""
    straight = detector()
    expected = feed(straight, sequence)
    first = detector()
    found = feed(first, sequence[:cut])
    saved = json.loads(json.dumps(first.state.as_dict()))
    second = detector(DetectorState.of(saved))
    found += feed(second, sequence[cut:], first=min(cut, len(sequence)))
    assert found == expected
    assert second.state == straight.state


def test_a_shorter_window_takes_the_last_of_a_longer_one():
    state = DetectorState(losses=[9.0] * 5 + [1.0] * 3, grad_norms=[1.0] * 8)
    assert detector(state, spike_window=3).decide(8, 64, 4.0, 1.0).kind == "loss_spike"


def test_which_checkpoint_to_go_back_to():
    saved = [
        SavedPlace("a", 10, 0),
        SavedPlace("b", 20, 0),
        SavedPlace("c", 30, 1),  # made while updates were being skipped
        SavedPlace("d", 40, 0),
    ]

    def names(first_bad, gone_to=None):
        return "".join(one.name for one in rollback_order(saved, first_bad, gone_to))

    assert names(35) == "bad"
    assert names(35, gone_to=20) == "abd"  # the second time the one before
    assert names(15) == "abd"  # the only one before the trouble, then the oldest after it
    assert names(5) == "abd"
    assert rollback_order([], 5, None) == []


def test_which_samples_are_left_out():
    since = Place(step=100, consumed=800)
    assert samples_to_skip(since, 880, 0, BATCH, 0) == (800, 880)
    assert samples_to_skip(since, 880, 0, BATCH, 10) == (720, 880)
    assert samples_to_skip(since, 880, 760, BATCH, 10) == (760, 880)
