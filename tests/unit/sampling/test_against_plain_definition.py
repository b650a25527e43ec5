"""Every algorithm at temperature 0 equals SPEC 7's plain definition, token by token, step by step."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.sampling import SamplingConfig, diffusion_generate
from tests.unit.sampling.plain_definition import (
    BOS,
    MASK,
    NUM_TOKENS,
    PAD,
    TinyModel,
    plain_generate,
)

DETERMINISTIC = [
    "maskgit_plus",
    "topk_margin",
    "entropy",
    "entropy_bound",
    "threshold",
    "factor",
]
BASE = SamplingConfig(
    mask_token_id=MASK, pad_token_id=PAD, bos_token_id=BOS, num_tokens=NUM_TOKENS, seed=1
)


def left_pad(prompts):
    width = max(len(prompt) for prompt in prompts)
    ids = [[PAD] * (width - len(prompt)) + prompt for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(real), width


def check(model, prompts, config):
    ids, real, width = left_pad(prompts)
    config = dataclasses.replace(config, output_history=True)
    output = diffusion_generate(model, ids, real, config=config)
    steps, confidence = output.history.opened_step, output.history.confidence
    for row, prompt in enumerate(prompts):
        expected, opened = plain_generate(model, prompt, config)
        shift = width - len(prompt)
        assert output.sequences[row, shift:].tolist() == expected
        assert output.sequences[row, :shift].tolist() == [PAD] * shift
        for position, (step, score) in opened.items():
            assert int(steps[row, shift + position]) == step
            assert float(confidence[row, shift + position]) == pytest.approx(score, abs=1e-6)
        assert (steps[row] >= 0).sum() == len(opened)


token = st.integers(0, MASK - 1)
inner = st.lists(st.one_of(token, st.just(MASK)), min_size=0, max_size=6)
prompt = inner.map(lambda tokens: [BOS, *tokens])


@given(
    prompts=st.lists(prompt, min_size=1, max_size=4),
    alg=st.sampled_from(DETERMINISTIC),
    new=st.integers(0, 9),
    steps=st.one_of(st.integers(1, 14), st.just(40)),
    grid=st.sampled_from([1e-3, 0.5]),  # 0.5: many equal logits and equal confidences
    top_p=st.sampled_from([None, 1.0, 0.95, 0.5, 0.1]),
    top_k=st.sampled_from([None, 1, 3, 100]),
    penalty=st.sampled_from([0.0, 3.0, 27.6]),
    source=st.sampled_from(["filtered", "raw"]),
    seed=st.integers(0, 5),
    length=st.sampled_from([None, 1, 2, 4, 7]),
)
@settings(max_examples=200, deadline=None)
def test_equals_plain_definition(
    prompts, alg, new, steps, grid, top_p, top_k, penalty, source, seed, length
):
    if length and steps < -(-new // length):
        length = None  # fewer steps than blocks are refused
    config = dataclasses.replace(
        BASE,
        alg=alg,
        max_new_tokens=new,
        steps=steps,
        top_p=top_p,
        top_k=top_k,
        pad_penalty=penalty,
        confidence_from=source,
        threshold=0.6,
        factor=1.2,
        entropy_bound=0.4,
        block_length=length,
    )
    check(TinyModel(seed, grid), prompts, config)


@pytest.mark.parametrize("alg", DETERMINISTIC)
@pytest.mark.parametrize("steps", [1, 8, 16, 1024])
def test_schedules_below_at_and_above_the_length(alg, steps):
    config = dataclasses.replace(BASE, alg=alg, max_new_tokens=8, steps=steps)
    prompts = [[BOS, 3, 4, 5], [BOS], [BOS, MASK, 7]]
    if steps == 1024:
        prompts = prompts[:1]  # the reference runs a pass a step
    check(TinyModel(7), prompts, config)


def test_numbers_opened_follow_float32():
    """int(masked (1 - s/t)) in float32; as many steps as masks: the first opens none."""
    output = diffusion_generate(
        TinyModel(1),
        torch.tensor([[BOS]]),
        config=dataclasses.replace(BASE, max_new_tokens=64, steps=64, output_history=True),
    )
    opened = torch.bincount(output.history.steps, minlength=64)
    times = torch.linspace(1, 1e-3, 65)
    left, expected = 64, []
    for step in range(64):
        share = 1 - times[step + 1] / times[step]
        count = left if step == 63 else int(torch.tensor(left, dtype=torch.float32) * share)
        expected.append(count)
        left -= count
    assert opened.tolist() == expected
    assert expected[0] == 0


def test_steps_that_open_nothing_run_no_forward_pass():
    model = TinyModel(1)
    config = dataclasses.replace(BASE, max_new_tokens=8, steps=1024, output_history=True)
    output = diffusion_generate(model, torch.tensor([[BOS, 1]]), config=config)
    assert output.num_forward == len(model.calls) == len(output.history.steps.unique()) <= 8
