"""The remote code against transformers' Qwen2, and its own promises."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

from megatron_dream.hf.export import code_files

PAD, MASK = 50, 51


def shape(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        **changes,
    }


def make(remote: ModuleType, **changes: Any) -> Any:
    torch.manual_seed(3)
    ids = {"mask_token_id": MASK, "pad_token_id": PAD, "eos_token_id": PAD, "num_tokens": 53}
    config = remote.DreamConfig(**shape(**{"rope_theta": 1e4, **ids, **changes}))
    model = remote.DreamModel(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, PAD, (2, 17), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("tied", [False, True])
def test_equals_qwen2_under_a_causal_mask(
    remote_code: ModuleType, ids: torch.Tensor, tied: bool
) -> None:
    dream = make(remote_code, tie_word_embeddings=tied)
    config = transformers.Qwen2Config(**shape(tie_word_embeddings=tied), rope_theta=1e4)
    qwen = transformers.Qwen2ForCausalLM(config).eval()
    assert set(qwen.state_dict()) == set(dream.state_dict())
    qwen.load_state_dict(dream.state_dict())
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        expected, found = qwen(ids).logits, dream(ids, attention_mask=causal).logits
        bias = torch.zeros(1, 1, length, length).masked_fill(~causal, float("-inf"))
        from_bias = dream(ids, attention_mask=bias).logits
        unmasked = dream(ids).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(from_bias, expected, atol=1e-5)
    assert not torch.allclose(unmasked, expected, atol=1e-2)  # it does attend to the right


def test_left_padding_changes_no_logit(remote_code: ModuleType, ids: torch.Tensor) -> None:
    model = make(remote_code)
    padding = torch.full((2, 5), PAD)
    padded = torch.cat([padding, ids], dim=1)
    mask = torch.cat([torch.zeros_like(padding), torch.ones_like(ids)], dim=1)
    with torch.no_grad():
        plain, moved = model(ids).logits, model(padded, attention_mask=mask).logits
    assert not moved.isnan().any()
    assert torch.allclose(moved[:, 5:], plain, atol=1e-5)


@pytest.mark.parametrize("form", ["2d", "3d", "4d", "int", "full"])
def test_masks_of_every_form(remote_code: ModuleType, ids: torch.Tensor, form: str) -> None:
    model, length = make(remote_code), ids.shape[1]
    everything = torch.ones(2, length, length, dtype=torch.bool)
    forms: dict[str, Any] = {
        "2d": torch.ones(2, length),
        "3d": everything,
        "4d": everything[:, None],
        "int": everything[:, None].long(),
        "full": "full",
    }
    with torch.no_grad():
        found, plain = model(ids, attention_mask=forms[form]).logits, model(ids).logits
    assert torch.allclose(found, plain, atol=1e-5)


def test_what_cannot_be_served_is_refused(remote_code: ModuleType, ids: torch.Tensor) -> None:
    model = make(remote_code)
    for wrong in ({"labels": ids}, {"past_key_values": ()}, {"inputs_embeds": torch.zeros(1)}):
        with pytest.raises(ValueError):
            model(ids, **wrong)
    with pytest.raises(ValueError, match="attention_mask"):
        model(ids, attention_mask="causal")
    with pytest.raises(ValueError, match="did you mean temperature"):
        model.diffusion_generate(ids, temperatures=1.0)
    for wrong_config in ({"hidden_act": "gelu"}, {"shift": False}):
        with pytest.raises(ValueError):
            remote_code.DreamConfig(**wrong_config)


def test_hidden_states_and_last_logits(remote_code: ModuleType, ids: torch.Tensor) -> None:
    model = make(remote_code)
    with torch.no_grad():
        output = model(ids, output_hidden_states=True)
        last = model(ids, num_logits_to_keep=3, return_dict=False)[0]
    assert len(output.hidden_states) == 3
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)
    assert torch.allclose(last, output.logits[:, -3:], atol=1e-6)


def test_generation_takes_what_public_callers_pass(
    remote_code: ModuleType, ids: torch.Tensor
) -> None:
    model, calls = make(remote_code), []

    def logits_hook(step: int, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        calls.append(step)
        return logits

    output = model.diffusion_generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        output_history=True,
        return_dict_in_generate=True,
        steps=8,
        temperature=0.2,
        top_p=0.95,
        top_k=None,
        alg="entropy",
        alg_temp=0.0,
        generation_logits_hook_func=logits_hook,
        generation_tokens_hook_func=lambda step, x, logits: x,
    )
    assert torch.equal(output.sequences[:, :17], ids)
    assert output.sequences.shape == (2, 23) and bool((output.sequences < 53).all())
    assert not bool((output.sequences == MASK).any())
    assert len(output.history) == 8 and torch.equal(output.history[-1], output.sequences)
    assert calls and len(calls) == output.num_forward


def test_defaults_of_generation_configs_do_not_leak(
    remote_code: ModuleType, ids: torch.Tensor
) -> None:
    """transformers 4's class carries temperature 1.0 and top_k 50 that nobody asked for."""
    model = make(remote_code)
    plain = model.diffusion_generate(ids, max_new_tokens=5, steps=5)
    config = transformers.GenerationConfig(max_new_tokens=5)
    assert torch.equal(model.diffusion_generate(ids, config, steps=5), plain)
    assert torch.equal(model.diffusion_generate(ids, max_length=22, steps=5), plain)
    assert torch.equal(model.diffusion_generate(ids, {"max_new_tokens": 5, "steps": 5}), plain)


def test_left_padded_batch_generates_as_each_row_alone(remote_code: ModuleType) -> None:
    model = make(remote_code)
    long, short = torch.arange(1, 9)[None], torch.arange(3, 8)[None]
    batch = torch.cat([long, torch.cat([torch.full((1, 3), PAD), short], dim=1)])
    mask = (torch.arange(8)[None] >= torch.tensor([[0], [3]])).long()
    options: dict[str, Any] = {"max_new_tokens": 6, "steps": 6, "temperature": 0.0}
    together = model.diffusion_generate(batch, attention_mask=mask, **options)
    assert torch.equal(together[:1], model.diffusion_generate(long, **options))
    assert torch.equal(together[1:, 3:], model.diffusion_generate(short, **options))


def test_modeling_names_every_file_of_the_sampler() -> None:
    """transformers 4 copies only the files that the modeling file itself imports."""
    files = code_files()
    text = files["modeling_dream.py"].read_text(encoding="utf-8")
    named = set(re.findall(r"^from \.(\w+) import", text, re.MULTILINE))
    assert named | {"modeling_dream"} == {Path(name).stem for name in files}


def test_nothing_but_parameters_is_kept(remote_code: ModuleType) -> None:
    """A buffer outside the weights is garbage after some versions' from_pretrained."""
    assert not list(make(remote_code).buffers())


@pytest.mark.parametrize("is_padded", [False, True])
def test_states_of_some_columns_through_the_cache(
    remote_code: ModuleType, ids: torch.Tensor, is_padded: bool
) -> None:
    """A block run again over kept keys and values, with nothing changed, gives what forward gives."""
    model = make(remote_code)
    mask = torch.ones_like(ids, dtype=torch.bool)
    if is_padded:
        mask[0, :4] = False
    positions = (mask.long().cumsum(-1) - 1).masked_fill(~mask, 1)
    key_mask = mask if is_padded else None
    with torch.no_grad():
        whole = model(ids, attention_mask=mask.long()).logits
        cache = remote_code.KeyValueCache(ids.shape[1])
        cache.begin(2, ids.shape[1])
        first = model.sampler_states(ids, key_mask, positions, cache)
        part = (ids[:, 9:14], key_mask, positions[:, 9:14], cache, 9, 1, 4)
        again = model.sampler_states(*part)
        assert again.shape[1] == 3
        torch.testing.assert_close(model.sampler_logits(again), whole[:, 10:13], atol=2e-5, rtol=0)
        real = mask if is_padded else torch.ones_like(mask)
        torch.testing.assert_close(
            model.sampler_logits(first)[real], whole[real], atol=2e-5, rtol=0
        )
        changed = (ids[:, 9:10] + 1) % PAD
        model.sampler_states(changed, key_mask, positions[:, 9:10], cache, 9)
        unchanged = (ids[:, 10:14], key_mask, positions[:, 10:14], cache, 10, 0, 3)
        after = model.sampler_logits(model.sampler_states(*unchanged))
    assert (
        after - whole[:, 10:13]
    ).abs().max() > 1e-3  # they see the other token's keys and values


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("alg", ["entropy", "threshold"])
def test_a_cache_refreshed_at_every_step_gives_the_same_tokens(
    remote_code: ModuleType, ids: torch.Tensor, cache: str, alg: str
) -> None:
    model = make(remote_code)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {
        "attention_mask": mask,
        "max_new_tokens": 13,
        "block_length": 5,
        "alg": alg,
        "threshold": 0.3,
        "seed": 1,
    }
    exact = model.diffusion_generate(ids, **options)
    same = model.diffusion_generate(ids, cache=cache, cache_refresh=1, **options)
    assert same.tolist() == exact.tolist()


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_static_caches_and_fp8_weights(
    remote_code: ModuleType, ids: torch.Tensor, cache: str
) -> None:
    """Static caches give the same tokens, in either precision; FP8 leaves head and table alone."""
    options = dict(max_new_tokens=9, block_length=4, cache=cache, threshold=0.1)
    real = torch.ones_like(ids)
    real[0, :5] = 0
    for alg in ("entropy", "threshold"):
        for weights in (None, "fp8"):
            model = make(remote_code)
            if weights is not None:
                model.use_weights(weights)
                assert model.lm_head.weight.dtype == torch.bfloat16
                assert type(model.model.layers[1].mlp.up_proj).__name__ == "Fp8Linear"
            assert model.takes_static_cache
            on, off = (
                model.diffusion_generate(
                    ids, attention_mask=real, alg=alg, cuda_graphs=choice, **options
                )
                for choice in ("on", "off")
            )
            assert on.tolist() == off.tolist()
    with pytest.raises(ValueError, match="weights is 'int8': choose bf16 or fp8"):
        make(remote_code).use_weights("int8")
