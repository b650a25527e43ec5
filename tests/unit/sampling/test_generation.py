"""Rows, padding, hooks, randomness, streaming: what the plain definition does not show."""

import dataclasses
import math

import pytest
import torch

from megatron_dream.sampling import (
    ALGORITHMS,
    SamplingConfig,
    cut_at_eos,
    diffusion_generate,
    diffusion_stream,
    responses,
)
from tests.unit.sampling.plain_definition import BOS, MASK, NUM_TOKENS, PAD, TinyModel

BASE = SamplingConfig(
    mask_token_id=MASK, pad_token_id=PAD, num_tokens=NUM_TOKENS, seed=3, max_new_tokens=8, steps=8
)


def generate(prompts, model=None, mask=None, **changes):
    extra = {k: changes.pop(k) for k in ("row_ids", "max_position") if k in changes}
    hooks = {k: changes.pop(k) for k in ("tokens_hook", "logits_hook") if k in changes}
    config = dataclasses.replace(BASE, **changes)
    mask = None if mask is None else torch.tensor(mask)
    return diffusion_generate(
        model or TinyModel(2), torch.tensor(prompts), mask, config=config, **extra, **hooks
    )


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("steps", [3, 8, 50])
def test_a_row_does_not_depend_on_its_batch(alg, steps):
    """At temperature, with noise in the order: alone, and beside longer prompts."""
    alg_temp = 0.5 if alg in ("maskgit_plus", "topk_margin", "entropy") else 0.0
    changes = dict(alg=alg, steps=steps, temperature=0.8, top_p=0.9, alg_temp=alg_temp)
    alone = generate([[BOS, 4]], row_ids=[7], **changes).sequences[0]
    batch = generate(
        [[BOS, 1, MASK, 9, 9], [PAD, PAD, PAD, BOS, 4], [PAD, BOS, 2, MASK, 3]],
        mask=[[1] * 5, [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]],
        row_ids=[0, 7, 1],
        **changes,
    ).sequences[1]
    assert batch[3:].tolist() == alone.tolist()
    other = generate([[BOS, 4]], row_ids=[8], **changes).sequences[0]
    assert other.tolist() != alone.tolist()


def test_num_return_sequences_repeats_and_keeps_earlier_samples():
    four = generate([[BOS, 1], [BOS, 2]], temperature=1.5, num_return_sequences=4).sequences
    two = generate([[BOS, 1], [BOS, 2]], temperature=1.5, num_return_sequences=2).sequences
    assert four.shape[0] == 8
    assert four[[0, 1, 4, 5]].tolist() == two.tolist()
    assert len({tuple(row) for row in four[:4].tolist()}) == 4


def test_global_generator_is_untouched_and_a_fresh_seed_is_reported():
    before = torch.get_rng_state()
    first = generate([[BOS]], temperature=1.0, seed=None, alg_temp=0.3)
    assert torch.equal(before, torch.get_rng_state())
    again = generate([[BOS]], temperature=1.0, seed=first.seed, alg_temp=0.3)
    assert again.sequences.tolist() == first.sequences.tolist()
    assert generate([[BOS]], temperature=1.0, seed=None).seed != first.seed


class Fixed:
    """The same logits everywhere."""

    def __init__(self, logits):
        self.logits = torch.tensor(logits)

    def forward(self, input_ids, attention_mask, position_ids):
        return self.logits.expand(*input_ids.shape, -1)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"temperature": 1.0}, [0.1, 0.2, 0.3, 0.4]),
        ({"temperature": 0.5}, [0.01, 0.04, 0.09, 0.16]),
        ({"temperature": 1.0, "top_p": 0.7}, [0, 0, 3, 4]),
        ({"temperature": 1.0, "top_p": 0.71}, [0, 2, 3, 4]),
        ({"temperature": 1.0, "top_k": 1}, [0, 0, 0, 1]),
        ({"temperature": 1.0, "alg": "origin"}, [1, 2, 3, 4]),
        ({"compat": "dream-4"}, [1, 2, 3, 4]),
    ],
)
def test_draws_follow_the_distribution(changes, expected):
    logits = [math.log(p) for p in (0.1, 0.2, 0.3, 0.4)] + [9.0, 9.0]  # 4: mask; 5: no token
    config = SamplingConfig(
        mask_token_id=4, num_tokens=5, max_new_tokens=4000, steps=2, seed=0, **changes
    )
    output = diffusion_generate(Fixed(logits), torch.tensor([[0]]), config=config)
    counts = torch.bincount(output.sequences[0, 1:], minlength=6).double()
    expected = torch.tensor([*expected, 0, 0], dtype=torch.float64)
    expected = expected / expected.sum()
    assert torch.all(counts[expected == 0] == 0)
    deviation = (counts / 4000 - expected).abs()
    assert torch.all(deviation <= 4.5 * torch.sqrt(expected * (1 - expected) / 4000))


def test_origin_opens_each_position_by_chance():
    """After k of n steps the share opened is 1 - times[k], for every position alike."""
    config = dataclasses.replace(
        BASE, alg="origin", max_new_tokens=3000, steps=10, output_history=True
    )
    output = diffusion_generate(TinyModel(1), torch.tensor([[BOS]]), config=config)
    opened = torch.bincount(output.history.steps, minlength=10).double().cumsum(0) / 3000
    expected = 1 - torch.linspace(1, 1e-3, 11).double()[1:]
    expected[-1] = 1
    assert (opened - expected).abs().max() < 0.04


def test_alg_temp_draws_positions_without_replacement():
    """int(3 x 0.4995) = 1 position opens first: each with softmax(confidence / alg_temp)."""
    table = torch.tensor([[2.0, 0.0, 0.0], [0.5, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])

    class ByPosition:
        def forward(self, input_ids, attention_mask, position_ids):
            return table[: input_ids.shape[1]].expand(input_ids.shape[0], -1, -1)

    config = SamplingConfig(
        mask_token_id=2,
        max_new_tokens=3,
        steps=2,
        alg="maskgit_plus",
        alg_temp=0.4,
        num_return_sequences=3000,
        seed=1,
        output_history=True,
    )
    output = diffusion_generate(ByPosition(), torch.tensor([[0]]), config=config)
    first = output.history.opened_step[:, 1:] == 0
    assert (first.sum(-1) == 1).all()
    expected = torch.softmax(torch.softmax(table[:3, :2], -1).amax(-1) / 0.4, -1)
    assert (first.float().mean(0) - expected).abs().max() < 0.04


def test_hooks_are_called_as_published():
    calls = []
    model = TinyModel(2)

    def tokens_hook(step, x, logits):
        calls.append(("tokens", step, None if logits is None else tuple(logits.shape)))
        if step is None:
            x[:, 3] = 5  # in place: must neither leak into a state nor be lost
        return x

    def logits_hook(step, x, logits):
        calls.append(("logits", step, tuple(logits.shape)))
        assert torch.equal(logits[:, 1:], model.forward(x, None, None)[:, :-1])
        logits = logits.clone()
        logits[..., 11] = 99
        return logits

    output = generate(
        [[BOS, 1]], model, steps=20, tokens_hook=tokens_hook, logits_hook=logits_hook
    ).sequences
    assert output[0].tolist() == [BOS, 1, 11, 5, *[11] * 6]
    assert calls[0] == ("tokens", None, None)
    assert [step for kind, step, _ in calls[1:] if kind == "tokens"] == list(range(20))
    with_logits = [step for kind, step, shape in calls if kind == "tokens" and shape]
    assert with_logits == [step for kind, step, _ in calls if kind == "logits"]
    assert 0 < len(with_logits) < 20


def test_a_hook_that_masks_again_is_in_the_history():
    def tokens_hook(step, x, logits):
        if step == 3:
            x[:, 2] = MASK
            x[:, 3] = 6
        return x

    output = generate([[BOS, 1]], tokens_hook=tokens_hook, output_history=True)
    frames = list(output.history.frames())
    assert torch.equal(frames[-1][1], output.sequences)
    assert frames[0][0] == -1 and (frames[0][1] == MASK).sum() == 8
    assert dict(frames)[3][0, 2:4].tolist() == [MASK, 6]
    assert int(output.history.opened_step[0, 2]) > 3
    assert not (output.sequences == MASK).any()


def test_history_begins_after_the_first_hook_and_keeps_what_came_last():
    """The hook sets a token before the loop and masks everything again after step 5."""

    def tokens_hook(step, x, logits):
        if step is None:
            x[:, 3] = 5
        if step == 5:
            x[:, 2:] = MASK
        return x

    history = generate([[BOS, 1]], tokens_hook=tokens_hook, output_history=True).history
    frames = dict(history.frames())
    assert frames[-1][0].tolist() == [BOS, 1, MASK, 5, *[MASK] * 6]
    assert (frames[5][0, 2:] == MASK).all()
    assert (history.steps < 5).any() and (history.opened_step[0, 2:] > 5).all()
    assert history.confidence[0, 2:].isfinite().all()


def test_with_a_hook_all_steps_run_though_nothing_is_left():
    steps = []

    def tokens_hook(step, x, logits):
        steps.append(step)
        return x

    generate([[BOS, 1]], max_new_tokens=0, steps=4, tokens_hook=tokens_hook)
    assert steps == [None, 0, 1, 2, 3]


def test_the_penalty_is_at_most_whole_where_a_hook_masks_the_prompt():
    """One mask to fill, two after the hook: a share of 2 counts as 1."""

    def tokens_hook(step, x, logits):
        if step is None:
            x[:, 1] = 4
        return x

    logits = [0.0, 2.0, 1.0, 0.0, -5.0]
    config = SamplingConfig(
        mask_token_id=4, pad_token_id=1, max_new_tokens=1, steps=1, pad_penalty=0.75
    )
    model, prompt = Fixed(logits), torch.tensor([[0, 3]])
    filled = diffusion_generate(model, prompt, config=config, tokens_hook=tokens_hook).sequences
    assert filled.tolist() == [[0, 1, 1]]  # 2 - 0.75 leads 1; 2 - 1.5 would not


def test_on_state_is_told_what_the_stream_yields_and_no_gradient_is_kept():
    class Watched(TinyModel):
        def forward(self, *arguments, **named):
            assert not torch.is_grad_enabled()
            return super().forward(*arguments, **named)

    told, model = [], Watched(2)
    prompt = torch.tensor([[BOS, 1]])
    output = diffusion_generate(model, prompt, config=BASE, on_state=told.append)
    streamed = list(diffusion_stream(Watched(2), prompt, config=BASE))
    assert [s.x_BS.tolist() for s in told] == [s.x_BS.tolist() for s in streamed]
    passes = [state.num_forward for state in told]
    assert passes[0] == 0 and passes == sorted(passes)
    assert passes[-1] == output.num_forward == len(model.calls)


def test_stream_yields_every_state_and_states_do_not_change():
    states = list(diffusion_stream(TinyModel(2), torch.tensor([[BOS, 1]]), config=BASE))
    final = generate([[BOS, 1]]).sequences
    assert states[0].step == -1 and states[0].num_masked == 8
    assert torch.equal(states[-1].x_BS, final) and states[-1].num_masked == 0
    for before, after in zip(states[:-1], states[1:], strict=True):
        assert torch.equal((before.x_BS != after.x_BS), after.opened_BS)
        assert (before.x_BS[after.opened_BS] == MASK).all()
    assert torch.is_grad_enabled()


def test_infilling_and_empty_cases():
    filled = generate([[BOS, MASK, 3, MASK]], max_new_tokens=0, steps=None).sequences[0].tolist()
    assert filled[0] == BOS and filled[2] == 3 and MASK not in filled and len(filled) == 4
    model = TinyModel(1)
    assert generate([[BOS, 1]], model, max_new_tokens=0).sequences.tolist() == [[BOS, 1]]
    empty = diffusion_generate(model, torch.zeros((0, 3), dtype=torch.long), config=BASE)
    assert empty.sequences.shape == (0, 11) and not model.calls
    one = generate([[BOS]], max_new_tokens=5, steps=1, output_history=True)
    assert one.num_forward == 1 and one.history.steps.tolist() == [0] * 5


def test_forbidden_ids_never_appear():
    output = generate(
        [[BOS]], max_new_tokens=200, temperature=50.0, forbidden_token_ids=(1, 2, 3)
    ).sequences[0, 1:]
    assert not set(output.tolist()) & {1, 2, 3, MASK, 23}
    assert len(set(output.tolist())) == 19


def test_pad_penalty_fades():
    """PAD leads by 2 nats: a penalty of 3 keeps it out while over 2/3 of the canvas is masked."""
    logits = [0.0] * 6
    logits[1] = 2.0
    config = SamplingConfig(
        mask_token_id=4, pad_token_id=1, max_new_tokens=60, steps=60, pad_penalty=3.0,
        output_history=True,
    )  # fmt: skip
    output = diffusion_generate(Fixed(logits), torch.tensor([[0]]), config=config)
    early = output.history.tokens[:20]
    late = output.history.tokens[25:]
    assert (early != 1).all() and (late == 1).all()
    after = dataclasses.replace(config, temperature=4.0, penalty_after_temperature=True, seed=0)
    before = dataclasses.replace(after, penalty_after_temperature=False)
    shares = [
        (diffusion_generate(Fixed(logits), torch.tensor([[0]]), config=c).sequences == 1).sum()
        for c in (dataclasses.replace(after, pad_penalty=40.0), before)
    ]
    assert shares[0] < shares[1]


def test_compat_fills_only_what_is_not_given():
    preset = SamplingConfig(mask_token_id=4, compat="dream-4").resolved()
    assert (preset.temperature, preset.top_p, preset.top_k) == (1.0, 1.0, 50)
    given = SamplingConfig(mask_token_id=4, compat="dream-4", temperature=0, top_k=0).resolved()
    assert (given.temperature, given.top_p, given.top_k) == (0, 1.0, 0)
    plain = SamplingConfig(mask_token_id=4).resolved()
    assert (plain.temperature, plain.top_p, plain.top_k) == (0.0, None, None)
    assert plain.steps == plain.max_new_tokens
    assert SamplingConfig(mask_token_id=4, max_new_tokens=0).resolved().steps == 512


def test_pad_penalty_factor_is_its_logarithm_in_nats():
    config = SamplingConfig(mask_token_id=4, pad_token_id=1, pad_penalty_factor=1e-3)
    assert config.resolved().pad_penalty == pytest.approx(6.9078, abs=1e-3)
    assert config.resolved().pad_penalty_factor is None


@pytest.mark.parametrize(
    "value, nats", [(3.0, 3.0), (0.1, 0.1), (0.0, 0.0), (1e-12, 27.631), (1e-3, 6.9078)]
)
def test_eos_penalty_is_read_by_its_size(value, nats, caplog):
    config = SamplingConfig(mask_token_id=4, pad_token_id=1, eos_penalty=value).resolved()
    assert config.pad_penalty == pytest.approx(nats, abs=1e-3)
    assert "eos_penalty" in caplog.text


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"alg": "best"}, "alg 'best' is unknown"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": True}, "temperature is True"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"steps": 0}, "steps is 0"),
        ({"eps": 0}, "eps is 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"alg": "threshold", "alg_temp": 0.1}, "alg_temp 0.1 has no meaning"),
        ({"pad_penalty": 1.0, "eos_penalty": 1.0}, "say the same thing"),
        ({"pad_penalty": 1.0}, "needs pad_token_id"),
        ({"pad_penalty_factor": 0}, "pad_penalty_factor is 0"),
        ({"confidence_from": "both"}, "confidence_from is 'both'"),
        ({"compat": "dream-9"}, "compat is 'dream-9'"),
    ],
)
def test_config_errors_name_the_field(changes, words):
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        SamplingConfig(mask_token_id=4, **changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "prompts, mask, changes, words",
    [
        ([[MASK, 1]], None, {}, "row 0 begins with a mask"),
        ([[BOS, 1], [PAD, MASK]], [[1, 1], [0, 1]], {}, "row 1 begins with a mask"),
        ([[BOS, 1], [PAD, PAD]], [[1, 1], [0, 0]], {}, "row 1 begins with a mask"),
        ([[BOS, PAD]], [[1, 0]], {}, "pad prompts on the left"),
        ([[BOS, 1]], [[1]], {}, "same shape"),
        ([[BOS, 23]], None, {}, "holds 23, which is no token"),
        ([[BOS, -1]], None, {}, "holds -1"),
        ([[BOS, 1]], None, {"max_position": 9}, "exceed the model's 9 positions"),
        ([[BOS, 1]], None, {"mask_token_id": None}, "mask_token_id is not set"),
        ([[BOS, 1]], None, {"row_ids": [1, 2]}, "row_ids has 2"),
        ([1, 2], None, {}, "shape [rows, tokens]"),
        ([[0.5]], None, {}, "shape [rows, tokens]"),
    ],
)
def test_bad_prompts_are_refused_in_one_sentence(prompts, mask, changes, words):
    with pytest.raises(ValueError) as error:
        generate(prompts, mask=mask, **changes)
    assert words in str(error.value)


def test_stream_refuses_before_the_first_state_is_asked_for():
    with pytest.raises(ValueError, match="begins with a mask"):
        diffusion_stream(TinyModel(), torch.tensor([[MASK]]), config=BASE)


def test_nan_logits_are_an_error():
    with pytest.raises(ValueError, match="NaN"):
        diffusion_generate(Fixed([0.0, float("nan"), 0.0]), torch.tensor([[0]]),
                           config=SamplingConfig(mask_token_id=2, max_new_tokens=2))  # fmt: skip


def test_text_is_cut_at_the_first_end():
    assert cut_at_eos([5, 6, 1, 7, 1], [1]) == [5, 6]
    assert cut_at_eos(torch.tensor([5, 2, 1]), (1, 2)) == [5]
    assert cut_at_eos([5, 6], ()) == [5, 6]
    assert responses(torch.tensor([[9, 1, 4, 1], [9, 9, 1, 4]]), 2, [1]) == [[4], []]
