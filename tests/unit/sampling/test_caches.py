"""Caches: exact where they say so, and where they approximate, exactly the approximation of SPEC 7."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.sampling import ALGORITHMS, SamplingConfig, diffusion_generate, passes
from tests.unit.sampling.plain_definition import (
    BOS,
    MASK,
    NUM_TOKENS,
    PAD,
    TinyModel,
    plain_generate,
)
from tests.unit.sampling.test_against_plain_definition import left_pad, prompt
from tests.unit.sampling.tiny_transformer import PlainCache, TinyTransformer

BASE = SamplingConfig(
    mask_token_id=MASK,
    pad_token_id=PAD,
    bos_token_id=BOS,
    num_tokens=NUM_TOKENS,
    seed=1,
    max_new_tokens=11,
    steps=11,
    block_length=4,
    threshold=0.5,
    factor=1.2,
    entropy_bound=0.8,
)
PROMPTS = [[BOS, 3, 4, 5, 6], [BOS, 7], [BOS, MASK, 9, MASK]]


def generate(prompts=PROMPTS, model=None, **changes):
    ids, real, _ = left_pad(prompts)
    extra = {k: changes.pop(k) for k in ("row_ids", "row_seeds", "stopped_rows") if k in changes}
    config = dataclasses.replace(BASE, **changes)
    return diffusion_generate(model or TinyTransformer(), ids, real, config=config, **extra)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_refresh_at_every_step_is_exact(cache, alg, temperature):
    for steps in (3, 11, 40):
        changes = dict(alg=alg, steps=steps, temperature=temperature)
        exact = generate(**changes).sequences
        assert (
            generate(cache=cache, cache_refresh=1, **changes).sequences.tolist() == exact.tolist()
        )


@given(
    prompts=st.lists(prompt, min_size=1, max_size=3),
    cache=st.sampled_from(["prefix", "dual"]),
    alg=st.sampled_from(["entropy", "maskgit_plus", "topk_margin", "threshold", "entropy_bound"]),
    refresh=st.sampled_from([None, None, 1, 2, 3]),
    border=st.sampled_from(["rewritten", "kept"]),
    window=st.sampled_from([None, 0, 2, 5]),
    new=st.integers(1, 10),
    steps=st.integers(5, 14),
    length=st.sampled_from([2, 3, 5, None]),
    penalty=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition_by_hand(
    prompts, cache, alg, refresh, border, window, new, steps, length, penalty, seed
):
    """Which keys and values are kept, which are written anew, row by row in plain lists."""
    model = TinyTransformer(seed)
    changes = dict(
        cache=cache,
        alg=alg,
        cache_refresh=refresh,
        border=border,
        suffix_window=window,
        max_new_tokens=new,
        steps=steps,
        block_length=length,
        pad_penalty=penalty,
    )
    output = generate(prompts, model, **changes)
    config = dataclasses.replace(BASE, **changes)
    for row, one in zip(output.sequences.tolist(), prompts, strict=True):
        by_hand = PlainCache(model, config, one)
        expected, _ = plain_generate(model, one, config, by_hand.logits_of)
        assert row[len(row) - len(expected) :] == expected


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("alg", ["entropy", "threshold", "entropy_bound", "origin"])
@pytest.mark.parametrize("remask, refresh", [("none", None), ("none", 3), ("remdm", None)])
def test_a_row_does_not_depend_on_its_batch(cache, alg, remask, refresh):
    changes = dict(cache=cache, alg=alg, steps=20, temperature=0.7, remask=remask)
    if cache != "none":
        changes["cache_refresh"] = refresh
    together = generate(row_ids=[5, 6, 7], **changes).sequences
    for number, one in enumerate(PROMPTS):
        alone = generate([one], row_ids=[5 + number], **changes).sequences[0]
        assert together[number, -len(alone) :].tolist() == alone.tolist()


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_the_head_works_on_a_bounded_number_of_positions(cache, monkeypatch):
    """Its logits are what fills memory: a larger batch must not make more of them at once."""
    changes = dict(cache=cache, steps=3, temperature=0.5)
    whole = generate(**changes).sequences
    model, sizes = TinyTransformer(), []
    head = model.sampler_logits
    model.sampler_logits = lambda states_NH: sizes.append(len(states_NH)) or head(states_NH)
    monkeypatch.setattr(passes, "ROWS_AT_ONCE", 3)
    parts = generate(model=model, **changes).sequences
    assert parts.tolist() == whole.tolist()
    assert max(sizes) == 3 and len(sizes) > 9


def test_what_a_pass_runs():
    """The block and its left neighbour; rows that have nothing left to open are in no pass."""
    model = TinyTransformer()
    generate([[BOS, 3]], model, cache="dual", max_new_tokens=8, steps=8)
    full, block = (1, 0, 10), (1, 1, 5)
    assert model.passes[:3] == [full, block, block]
    model = TinyTransformer()
    generate([[BOS, 3]], model, cache="prefix", max_new_tokens=8, steps=8)
    assert model.passes[:3] == [full, (1, 1, 9), (1, 1, 9)]
    model = TinyTransformer(1)
    generate([[BOS, 3], [BOS, 9]], model, cache="dual", alg="threshold", threshold=0.2, steps=11)
    assert {rows for rows, _, _ in model.passes} == {1, 2}


def test_a_model_without_states_has_no_cache():
    with pytest.raises(ValueError, match="TinyModel has not: leave cache out"):
        generate(model=TinyModel(), cache="dual")


def test_fewer_steps_than_blocks_are_refused():
    with pytest.raises(ValueError, match="steps is 2, fewer than the 3 blocks of 4"):
        generate(steps=2)


def test_what_does_not_go_together_is_refused():
    def identity(step, x, logits):
        return x

    config = dataclasses.replace(BASE, suffix_window=2)
    with pytest.raises(
        ValueError, match="hooks get the logits of all positions, which suffix_window"
    ):
        diffusion_generate(
            TinyTransformer(), torch.tensor([[BOS]]), config=config, tokens_hook=identity
        )
    with pytest.raises(ValueError, match="cache_refresh is 3 with remask remdm"):
        dataclasses.replace(BASE, cache="dual", cache_refresh=3, remask="remdm")
    for window in (0, 3):
        with pytest.raises(ValueError, match=f"suffix_window is {window} without blocks"):
            dataclasses.replace(BASE, block_length=None, suffix_window=window)


def test_rows_that_are_stopped_leave_with_their_masks():
    whole = generate(cache="dual").sequences
    model, asked = TinyTransformer(), []

    def stopped():
        asked.append(None)
        return [0] if len(asked) > 3 else []

    output = generate(model=model, cache="dual", stopped_rows=stopped).sequences
    assert output[1:].tolist() == whole[1:].tolist()
    assert 0 < (output[0] == MASK).sum() < 11
    assert model.passes[-1][0] < 3


def test_row_seeds_are_those_of_lone_requests():
    changes = dict(temperature=1.0, cache="dual")
    batch = generate(row_ids=[0, 0, 0], row_seeds=[11, 12, 13], **changes).sequences
    for number, one in enumerate(PROMPTS):
        alone = generate([one], seed=11 + number, **changes).sequences[0]
        assert batch[number, -len(alone) :].tolist() == alone.tolist()
    with pytest.raises(ValueError, match="row_seeds has 1 entries for 3 prompts"):
        generate(row_seeds=[1])


def test_early_end_fills_what_follows_an_end_token():
    plain = generate(output_history=True)
    end = int(plain.sequences[0, 6])  # some token of the first block of row 0
    early = generate(eos_token_id=end, early_end=True, output_history=True)
    for row in range(3):
        whole, cut = plain.sequences[row, 5:].tolist(), early.sequences[row, 5:].tolist()
        blocks = [whole[:4], whole[4:8], whole[8:]]
        done = next((n + 1 for n, block in enumerate(blocks) if end in block), 3)
        known = sum(len(block) for block in blocks[:done])
        assert cut == whole[:known] + [PAD] * (11 - known)
    assert early.num_columns < plain.num_columns
    assert list(early.history.frames())[-1][1].tolist() == early.sequences.tolist()


def test_remasking_gives_steps_beyond_the_length_a_meaning():
    changes = dict(steps=60, remask="remdm", output_history=True, temperature=0.8)
    output = generate(**changes)
    assert not bool((output.sequences == MASK).any())
    ids, _, width = left_pad(PROMPTS)
    given = (ids != MASK).nonzero().tolist()
    assert all(output.sequences[row, column] == ids[row, column] for row, column in given)
    events = output.history
    again = [
        (int(row), int(column))
        for row, column, token in zip(events.rows, events.positions, events.tokens, strict=True)
        if token == MASK
    ]
    assert again and max(again.count(place) for place in again) <= BASE.remask_limit
    assert not set(again) & {tuple(place) for place in given}
    plain = generate(steps=60).sequences.tolist()
    assert generate(steps=60, remask="remdm").sequences.tolist() != plain
    assert generate(steps=60, remask="remdm", remask_limit=0).sequences.tolist() == plain
    assert list(events.frames())[-1][1].tolist() == output.sequences.tolist()


def test_remasking_follows_its_probability():
    """min(sigma_max, s / (1 - t)) times softmax(-confidence) over the opened of a row."""
    from megatron_dream.sampling.remask import reopened
    from megatron_dream.sampling.schedule import Schedule

    opened = torch.tensor([[True, True, False, True]])
    confidence = torch.tensor([[0.9, 0.1, 0.5, 0.4]])
    weights = torch.softmax(-confidence[opened], -1).double()
    schedule, draws = Schedule(10, 1e-3), 20000
    generator = torch.Generator().manual_seed(0)
    for step, sigma_max in ((2, 1.0), (8, 1.0), (2, 0.3)):
        t, s = schedule.times[step].double(), schedule.times[step + 1].double()
        sigma = min(sigma_max, float(s / (1 - t)))
        config = dataclasses.replace(BASE, remask="remdm", sigma_max=sigma_max)
        rows = opened.expand(draws, 4)
        uniforms = torch.rand(3 * draws, generator=generator, dtype=torch.float64)
        times = torch.zeros(draws, 4, dtype=torch.int64)
        again = reopened(schedule, step, confidence.expand(draws, 4), rows, times, uniforms, config)
        share = again.double().mean(0)[opened[0]]
        expected = sigma * weights
        assert torch.all((share - expected).abs() < 4.5 * torch.sqrt(expected / draws))
        assert not bool(again[:, 2].any())
        bounded = times + config.remask_limit
        assert not bool(
            reopened(
                schedule, step, confidence.expand(draws, 4), rows, bounded, uniforms, config
            ).any()
        )
