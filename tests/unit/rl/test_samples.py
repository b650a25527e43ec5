"""A step's samples on disk, the order of problems, grading by kind, and what a group is made of."""

from __future__ import annotations

import json
import math
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.config.schema import RlConfig
from megatron_dream.diffusion.noise import NoiseStream
from megatron_dream.rl import grading
from megatron_dream.rl.batch import Group, build_update, valid_tokens
from megatron_dream.rl.order import ProblemOrder
from megatron_dream.rl.problems import RlProblem
from megatron_dream.rl.samples import Sample, file_of, read_samples, reward_of, write_samples
from megatron_dream.sandbox import Outcome, Problem, Verdict

HEAD = {"step": 3, "weights": "0123", "settings": {"top_p": 0.95}}


def sample(**fields: Any) -> Sample:
    values: dict[str, Any] = {
        "place": 0,
        "number": 1,
        "problem": "a",
        "kind": "function",
        "tokens": [5, 6, 7],
        "opened": [2, 0, 1],
        "length": 2,
        "text": 'say "\n',
        "outcome": "passed",
        "detail": "",
        "reward": 1.0,
        "program": None,
    }
    return Sample(**{**values, **fields})


def test_what_is_written_is_read_and_other_weights_are_not(tmp_path: Path) -> None:
    path = file_of(tmp_path / "samples", 3)
    assert read_samples(path, HEAD) is None
    made = [sample(), sample(number=2, reward=None, text="é\u2028")]
    write_samples(path, HEAD, made)
    assert read_samples(path, HEAD) == made
    assert read_samples(path, {**HEAD, "weights": "0124"}) is None
    assert read_samples(path, {**HEAD, "settings": {"top_p": 0.9}}) is None


@pytest.mark.parametrize("outcome", Outcome)
def test_only_passed_tests_are_a_reward_and_infrastructure_is_none(outcome: Outcome) -> None:
    wanted = {Outcome.PASSED: 1.0, Outcome.INFRASTRUCTURE: None}.get(outcome, 0.0)
    assert reward_of(outcome) == wanted


@pytest.mark.parametrize(
    ("reward", "is_judged"), [(0.0, True), (1.0, True), (None, False), (math.nan, False)]
)
def test_a_reward_that_is_no_number_is_no_judgement(reward: float | None, is_judged: bool) -> None:
    assert sample(reward=reward).is_judged == is_judged


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**40))
def test_every_problem_is_asked_once_an_epoch(count: int, per_step: int, seed: int) -> None:
    order = ProblemOrder(seed, count)
    firsts = range(0, 3 * count * per_step, per_step)
    asked = [number for first in firsts for number in order.asked(first, per_step)]
    for epoch in range(len(asked) // count):
        assert sorted(asked[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_have_orders_of_their_own() -> None:
    order = ProblemOrder(1, 50)
    assert order.asked(0, 50) != order.asked(50, 50)
    assert order.asked(0, 50) == ProblemOrder(1, 50).asked(0, 50)


class FakeJudge:
    """Counts what it is given."""

    def __init__(self, *_: Any) -> None:
        self.given: list[str] = []

    def submit(self, program: str, _: Problem) -> Future[Verdict]:
        self.given.append(program)
        future: Future[Verdict] = Future()
        future.set_result(Verdict(Outcome.PASSED))
        return future

    def close(self) -> None:
        pass


FUNCTION = RlProblem("f", "function", "p", Problem("f", tests="assert f()", functions=("f",)))
OUTPUT = RlProblem("o", "output", "p", answer={"output": "[1, 2]"})


def test_grading_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "start_judge", lambda *given: FakeJudge(*given[:3]))
    grader = grading.Grader(RlConfig())

    def outcome(problem: RlProblem, text: str) -> Outcome:
        return grader.submit(problem, text)[1].result().outcome

    assert outcome(FUNCTION, "no fence") is Outcome.FORMAT
    assert outcome(FUNCTION, "```python\npass\n```") is Outcome.PASSED
    assert outcome(FUNCTION, "```python\npass\n```") is Outcome.PASSED
    judge: Any = grader._judge
    assert judge.given == ["pass\n"]  # equal programs are judged once a step
    grader.begin()
    grader.submit(FUNCTION, "```python\npass\n```")
    assert len(judge.given) == 2
    assert outcome(OUTPUT, '{"output": [1, 2]}') is Outcome.PASSED
    assert outcome(OUTPUT, "[1, 3]") is Outcome.FAILED
    assert outcome(OUTPUT, "I do not know") is Outcome.FORMAT
    for odd in ("...", "2j", "1+2j", "[" * 900 + "]" * 900, "9" * 5000, "0x" + "f" * 5000):
        text = json.dumps({"output": odd})
        assert outcome(OUTPUT, text) in (Outcome.FAILED, Outcome.FORMAT), odd[:9]
    nested = '{"output": ' * 600 + "1" + "}" * 600
    assert outcome(OUTPUT, nested) in (Outcome.FAILED, Outcome.FORMAT)


def test_no_loss_behind_an_answers_end() -> None:
    tokens = [4, 5, 6, 0, 0]
    assert valid_tokens(tokens, 3, "none").tolist() == [True, True, True, False, False]
    assert valid_tokens(tokens, 3, "first").tolist() == [True, True, True, True, False]
    assert valid_tokens(tokens, 5, "first").all()  # no end, so none is learnt


@given(st.integers(0, 100), st.sampled_from(["coupled", "independent"]))
def test_what_is_not_asked_weighs_nothing_and_the_rest_adds_up(ordinal: int, masks: str) -> None:
    asked = np.array([[True] * 4 + [False] * 4, [False] * 8])
    group = Group((1,), np.zeros((2, 8), np.int32), np.zeros((2, 8), np.int32), asked, np.ones(2))
    rl = RlConfig(masks=masks, aggregation="token_mean")  # type: ignore[arg-type]
    update = build_update([group, group], rl, NoiseStream(0, "rl"), 2 * ordinal)
    weight = update.weight_RL.reshape(2, 2, 2, 8)
    assert (
        not weight[:, :, ~asked].any() and not weight[~update.masked_RL.reshape(weight.shape)].any()
    )
    assert weight.sum() == pytest.approx(1.0) or not weight.any()
    masked = update.masked_RL.reshape(2, 2, 2, 8)
    assert (masked[:, :, 0] == masked[:, :, 1]).all()  # a group's responses share their masks
    if masks == "coupled":
        assert (masked[:, 0] ^ masked[:, 1]).all()
