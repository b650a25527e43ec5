"""Bound, exact likelihood and chain against the definition in plain lists, on models small enough for it."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from megatron_dream.evaluation.likelihood import (
    MaskedModel,
    Request,
    chain_loglikelihoods,
    enumerate_orders,
    loglikelihood,
    loglikelihoods,
)
from megatron_dream.evaluation.sampler import Sampler
from tests.unit.evaluation.letters import LetterTokenizer
from tests.unit.evaluation.likelihood.plain_likelihood import Plain
from tests.unit.sampling.plain_definition import BOS, MASK, PAD, TinyModel
from tests.unit.sampling.tiny_transformer import TinyTransformer

CONTEXT, CONTINUATION = [BOS, 3, 1, 4], [1, 5, 9, 2]


def masked(model: Any, limit: int | None = None) -> MaskedModel:
    return MaskedModel(model, MASK, PAD, limit)


@pytest.fixture(params=[TinyModel, TinyTransformer], ids=["logits", "states"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.param(seed=4)


def plain(model: Any, context: list[int], continuation: list[int]) -> Plain:
    return Plain(model, MASK, PAD, context, continuation)


@pytest.mark.parametrize("draws", ["plain", "stratified", "complementary", "count", "all"])
def test_the_bound_is_the_plain_sum(model: Any, draws: str) -> None:
    found = loglikelihood(masked(model), CONTEXT, CONTINUATION, 12, draws, seed=9)
    expected = plain(model, CONTEXT, CONTINUATION).estimate(draws, 12, seed=9)
    assert found == pytest.approx(expected, abs=1e-4)
    assert found < 0


def test_the_three_numbers_are_those_of_all_orders(model: Any) -> None:
    found = enumerate_orders(masked(model), CONTEXT, CONTINUATION)
    slow = plain(model, CONTEXT, CONTINUATION)
    assert found.bound == pytest.approx(slow.bound(), abs=1e-4)
    assert found.exact == pytest.approx(slow.exact(), abs=1e-4)
    assert found.chain == pytest.approx(slow.chain(), abs=1e-4)
    assert found.bound < found.exact - 0.01  # the orders of this model disagree
    every = loglikelihood(masked(model), CONTEXT, CONTINUATION, draws="all")
    assert every == pytest.approx(found.bound, abs=1e-4)
    (chain,) = chain_loglikelihoods(masked(model), [Request(CONTEXT, CONTINUATION)])
    assert chain.loglikelihood == pytest.approx(found.chain, abs=1e-4)


class Joint:
    """Conditionals of one joint distribution over three tokens behind one that is given: they agree."""

    def __init__(self) -> None:
        self.p = np.random.default_rng(2).dirichlet(np.full(27, 0.5)).reshape(3, 3, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: Any, position_ids: Any) -> Any:
        logits = torch.zeros((*input_ids.shape, MASK + 2))
        for row, ids in enumerate(input_ids[:, 1:4].tolist()):
            known = tuple(
                slice(None) if token == MASK else slice(token, token + 1) for token in ids
            )
            for axis in range(3):
                others = tuple(a for a in range(3) if a != axis)
                here = (*known[:axis], slice(None), *known[axis + 1 :])
                marginal = self.p[here].sum(axis=others)
                logits[row, axis] = -1e9
                logits[row, axis, :3] = torch.from_numpy(np.log(marginal))
        return logits


def test_where_the_conditionals_agree_all_three_are_the_joint() -> None:
    joint = Joint()
    for text in itertools.product(range(3), repeat=3):
        found = enumerate_orders(masked(joint), [BOS], text)
        truth = math.log(joint.p[text])
        assert (found.bound, found.exact, found.chain) == pytest.approx((truth,) * 3, abs=1e-4)


def test_exact_and_chain_are_distributions_and_the_bound_is_below() -> None:
    """Over all texts of three letters of a model that gives other tokens nothing."""

    class Letters(TinyModel):
        def forward(self, *args: Any, **named: Any) -> torch.Tensor:
            logits = super().forward(*args, **named)
            logits[..., 4:] = -math.inf
            return logits

    model = masked(Letters(seed=1))
    found = [
        enumerate_orders(model, [BOS, 2], text) for text in itertools.product(range(4), repeat=3)
    ]
    sums = [
        sum(math.exp(getattr(one, name)) for one in found) for name in ("exact", "chain", "bound")
    ]
    assert sums[:2] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert sums[2] < 0.99
    assert all(one.bound <= one.exact + 1e-9 for one in found)
    assert any(one.chain > one.exact for one in found)  # neither a bound
    assert any(one.chain < one.bound for one in found)  # nor a limit


def requests() -> list[Request]:
    generator = np.random.default_rng(0)
    found = []
    for number in range(14):
        context, continuation = generator.integers(0, 16, 4 + number % 3), number % 5
        found.append(
            Request(
                [BOS, *context.tolist()], generator.integers(0, 16, continuation).tolist(), number
            )
        )
    return found


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_score_does_not_depend_on_what_else_is_scored(model: Any, batch_size: int) -> None:
    together = loglikelihoods(masked(model), requests(), 8, "stratified", 3, batch_size=batch_size)
    for one, value in zip(requests(), together, strict=True):
        alone = loglikelihoods(masked(model), [one], 8, "stratified", 3)
        slow = plain(model, one.context, one.continuation).estimate(
            "stratified", 8, 3, one.question
        )
        assert value == pytest.approx(alone[0], abs=1e-4)
        assert value == pytest.approx(slow, abs=1e-4)
    assert together[0] == 0.0 and math.copysign(1, together[0]) == 1  # nothing to score


def test_many_texts_share_a_pass_and_repeated_sets_run_once() -> None:
    model = TinyTransformer()
    texts = [Request([BOS, n, n], [n], 5) for n in range(10)]
    loglikelihoods(masked(model), texts, 128, "stratified", 0, batch_size=32)
    assert [rows for rows, _, _ in model.passes] == [10]


def test_choices_of_one_token_are_one_row() -> None:
    model = TinyTransformer()
    texts = [Request(CONTEXT, [n], 5) for n in range(4)]
    found = loglikelihoods(masked(model), texts, 128, "count", 0)
    assert [rows for rows, _, _ in model.passes] == [1]
    row = torch.tensor([[*CONTEXT, MASK, PAD]])
    expected = model.forward(row, None, None)[0, len(CONTEXT) - 1].log_softmax(-1)[:4]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_question_shares_its_draws_and_another_has_others() -> None:
    model = masked(TinyModel(seed=4))
    same = [Request(CONTEXT, CONTINUATION, q) for q in (1, 1, 2)]
    found = loglikelihoods(model, same, 4, "plain", 0)
    assert found[0] == found[1] != found[2]
    assert loglikelihoods(model, same, 4, "plain", 1)[0] != found[0]


def test_the_end_is_seen_and_neither_it_nor_the_first_position_is_masked() -> None:
    seen: list[list[int]] = []

    class Watching(TinyModel):
        def forward(self, input_ids: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            seen.extend(input_ids.tolist())
            return super().forward(input_ids, None, None)

    model = masked(Watching())
    assert loglikelihood(model, [], [3, 1, 4], 16, "plain") < 0
    assert {row[0] for row in seen} == {3} and {row[-1] for row in seen} == {PAD}
    assert any(row[1:3] == [MASK, MASK] for row in seen)
    assert loglikelihood(model, [], [3]) == 0.0
    seen.clear()
    loglikelihoods(model, [Request([BOS], [1, 2])], 4, "all", append_eos=False)
    assert {len(row) for row in seen} == {3}


def test_a_long_context_loses_its_oldest_tokens() -> None:
    tiny = TinyModel()
    long, short = [BOS, *range(10)], list(range(4, 10))
    cut = loglikelihood(masked(tiny, limit=9), long, [1, 2], 8)
    assert cut == loglikelihood(masked(tiny), short, [1, 2], 8)
    assert cut != loglikelihood(masked(tiny), long, [1, 2], 8)
    request = [Request(long, [1, 2])]
    for limit, asked in ((9, None), (None, 9), (9, 99), (99, 9)):
        found = loglikelihoods(masked(tiny, limit), request, 8, max_length=asked)
        assert found == [cut]  # no more than is asked for, and no more than the model has
    with pytest.raises(ValueError, match="does not fit into 4"):
        loglikelihood(masked(tiny, limit=4), long, [1, 2, 3], 8)


def test_the_chain_says_whether_it_is_greedy(model: Any) -> None:
    greedy: list[int] = []
    for left in (3, 2, 1):
        row = torch.tensor([[*CONTEXT, *greedy, *[MASK] * left, PAD]])
        greedy.append(
            int(model.forward(row, None, None)[0, len(CONTEXT) + len(greedy) - 1].argmax())
        )
    other = [*greedy[:2], (greedy[2] + 1) % 16]
    ran = [Request(CONTEXT, greedy), Request(CONTEXT, other), Request(CONTEXT, [])]
    found = chain_loglikelihoods(masked(model), ran)
    assert [one.is_greedy for one in found] == [True, False, True]
    assert found[2].loglikelihood == 0.0


def test_models_of_every_kind_are_taken() -> None:
    tiny = TinyModel(seed=4)
    value = loglikelihood(masked(tiny), CONTEXT, CONTINUATION, 8)
    sampler = Sampler(tiny, LetterTokenizer(), 64)  # type: ignore[arg-type]
    assert loglikelihood(sampler, CONTEXT, CONTINUATION, 8) == value
    tiny.config = SimpleNamespace(mask_token_id=MASK, eos_token_id=[PAD, 1])  # type: ignore[attr-defined]
    assert loglikelihood(tiny, CONTEXT, CONTINUATION, 8) == value
    with pytest.raises(ValueError, match="wrap it as MaskedModel"):
        loglikelihood(TinyModel(), CONTEXT, CONTINUATION)


def test_logits_that_are_not_numbers_are_refused() -> None:
    class Broken(TinyModel):
        def forward(self, *args: Any, **named: Any) -> torch.Tensor:
            return super().forward(*args, **named) * math.nan

    with pytest.raises(ValueError, match="NaN"):
        loglikelihood(masked(Broken()), CONTEXT, CONTINUATION)
