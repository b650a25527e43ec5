"""One choice with numbers worked out by hand: the order within a step, at temperatures over 0.

The plain definition covers temperature 0, where the penalty's side of the temperature and many
another slip change nothing.
"""

import dataclasses

import pytest
import torch

from megatron_dream.sampling import SamplingConfig, diffusion_generate
from megatron_dream.sampling.decode import choose

LOGITS = torch.tensor([1.0, 0.5, 3.0, -1.0, 9.0, 9.0])  # 4: mask; 5: no token
PAD, C = 2, 1.5
CONFIG = SamplingConfig(
    mask_token_id=4, pad_token_id=PAD, num_tokens=5, alg="maskgit_plus", temperature=0.5
)


def softmax(values):
    return torch.softmax(torch.as_tensor(values), -1)


def at(token, nats):
    """``nats`` at one of the four tokens."""
    return torch.nn.functional.one_hot(torch.tensor(token), 4) * nats


def choose_all(config, penalty=None, logits=LOGITS, count=400):
    """Choose at ``count`` alike positions with evenly spread draws: every token turns up."""
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return choose(
        [logits.expand(count, -1)],
        None if penalty is None else torch.full((count,), penalty),
        uniforms if config.temperature else None,
        config.resolved(),
    )


def shares(choice):
    return torch.bincount(choice.tokens_N, minlength=4) / len(choice.tokens_N)


@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("is_after", [False, True])
def test_the_penalty_stands_on_its_side_of_the_temperature(temperature, is_after):
    """Before: softmax((l - c) / T), so c / T nats are felt; after: softmax(l / T - c), so c are."""
    config = dataclasses.replace(
        CONFIG, temperature=temperature, penalty_after_temperature=is_after
    )
    felt = C if is_after else C / temperature
    expected = softmax(LOGITS[:4] / temperature - at(PAD, felt))
    choice = choose_all(config, C)
    assert torch.allclose(choice.probability_N, expected[choice.tokens_N], atol=1e-6)
    assert (shares(choice) - expected).abs().max() <= 1 / 400


@pytest.mark.parametrize(
    "is_after, top_p, kept",
    [(False, 0.8, {0, 2}), (True, 0.8, {2}), (True, 0.9, {0, 2})],
)
def test_the_penalty_comes_before_the_filter(is_after, top_p, kept):
    """At T = 0.5 PAD has 0.66 with the penalty before, 0.8978 with it after, 0.97 without."""
    config = dataclasses.replace(CONFIG, top_p=top_p, penalty_after_temperature=is_after)
    assert set(choose_all(config, C).tokens_N.tolist()) == kept


def test_at_temperature_0_both_sides_are_the_same():
    for is_after in (False, True):
        config = dataclasses.replace(CONFIG, temperature=0, penalty_after_temperature=is_after)
        choice = choose_all(config, 2.5, count=1)
        assert choice.tokens_N.tolist() == [0]
        expected = softmax(LOGITS[:4] - at(PAD, 2.5))[0]
        assert float(choice.probability_N) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("is_after", [False, True])
def test_the_side_of_the_penalty_holds_through_a_generation(is_after):
    """One step, everything masked: the penalty is whole, and the history tells the probability."""

    class Fixed:
        def forward(self, input_ids, attention_mask, position_ids):
            return LOGITS.expand(*input_ids.shape, -1)

    config = dataclasses.replace(
        CONFIG,
        alg="entropy",
        pad_penalty=C,
        penalty_after_temperature=is_after,
        max_new_tokens=50,
        steps=1,
        seed=0,
        output_history=True,
    )
    output = diffusion_generate(Fixed(), torch.tensor([[0]]), config=config)
    expected = softmax(LOGITS[:4] / 0.5 - at(PAD, C if is_after else C / 0.5))
    tokens = output.sequences[0, 1:]
    assert torch.allclose(output.history.probability[0, 1:], expected[tokens], atol=1e-6)
    entropy = (expected * torch.log(expected + 1e-10)).sum().expand(50)
    assert torch.allclose(output.history.confidence[0, 1:], entropy, atol=1e-6)


def test_confidence_is_of_the_probabilities_drawn_from_or_raw():
    """Filtered: after penalty, temperature, top_k. Raw: after the penalty alone."""
    config = dataclasses.replace(CONFIG, top_k=2, temperature=2.0)
    penalised = LOGITS[:4] - at(PAD, C)
    filtered = softmax(penalised / 2.0 + torch.tensor([0, -torch.inf, 0, -torch.inf]))
    raw = softmax(penalised)
    for source, probs in (("filtered", filtered), ("raw", raw)):
        for alg, expected in (
            ("maskgit_plus", probs),
            ("topk_margin", (lambda best: (best[0] - best[1]).expand(4))(probs.topk(2).values)),
            ("entropy", (probs * torch.log(probs + 1e-10)).sum().expand(4)),
        ):
            choice = choose_all(dataclasses.replace(config, confidence_from=source, alg=alg), C)
            assert set(choice.tokens_N.tolist()) == {0, PAD}
            found = choice.confidence_N
            assert torch.allclose(found, expected[choice.tokens_N], atol=1e-6)
            assert torch.allclose(choice.probability_N, probs[choice.tokens_N], atol=1e-6)


def test_temperature_comes_before_top_p():
    """Of 0.81 0.11 0.07 at T = 1, 0.8 needs one; of 0.56 0.21 0.16 0.08 at T = 2 it needs three."""
    for temperature, kept in ((1.0, {2}), (2.0, {0, 1, 2})):
        config = dataclasses.replace(CONFIG, top_p=0.8, temperature=temperature)
        assert set(choose_all(config).tokens_N.tolist()) == kept


def test_top_p_comes_before_top_k():
    """0.4 0.3 0.2 0.1: top_p 0.5 keeps two; after top_k 2 (0.57 0.43) it would keep one."""
    logits = torch.cat([torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1])), torch.zeros(2)])
    config = dataclasses.replace(CONFIG, temperature=1.0, top_p=0.5, top_k=2)
    choice = choose_all(config, logits=logits)
    assert set(choice.tokens_N.tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_logits_are_worked_on_in_float32_and_left_as_they_were(dtype):
    logits = LOGITS.to(dtype)
    before = logits.clone()
    choice = choose_all(CONFIG, C, logits=logits)
    assert torch.equal(logits, before)
    expected = softmax((LOGITS[:4] - at(PAD, C)) / 0.5)
    assert choice.probability_N.dtype == torch.float32
    assert torch.allclose(choice.probability_N, expected[choice.tokens_N], atol=1e-6)


def test_a_token_of_probability_0_is_never_drawn():
    """The least and the largest draw: neither the forbidden ends nor what top_k took away."""
    logits = torch.tensor([9.0, 0.0, 1.0, -9.0, 9.0, 9.0])
    config = dataclasses.replace(CONFIG, forbidden_token_ids=(0, 3)).resolved()
    # a device without float64 rounds the largest draws up to 1
    uniforms = torch.tensor([0.0, 1 - 2**-53, 1.0], dtype=torch.float64)
    choice = choose([logits.expand(3, -1)], None, uniforms, config)
    assert choice.tokens_N.tolist() == [1, 2, 2]


def test_many_positions_are_worked_on_in_parts():
    """Parts bound memory; tokens, draws and penalties of each position stay together."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((23, 6), generator=generator)
    penalty = torch.rand((23,), generator=generator) * 3
    uniforms = torch.rand((23,), generator=generator, dtype=torch.float64)
    whole = choose([logits], penalty, uniforms, CONFIG.resolved())
    parts = choose(logits.split(5), penalty, uniforms, CONFIG.resolved())
    for name in ("tokens_N", "confidence_N", "probability_N"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
