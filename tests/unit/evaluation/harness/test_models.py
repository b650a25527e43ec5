"""Models: an export, a public Dream without our code, one from left to right."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from megatron_dream.errors import ConfigError, DataError, ModelFolderError
from megatron_dream.evaluation.benchmarks.base import Ask, Task
from megatron_dream.evaluation.harness.autoregressive import AutoregressiveModel
from megatron_dream.evaluation.harness.diffusion import DiffusionModel, PublicDream
from megatron_dream.evaluation.harness.models import fingerprint, is_autoregressive, open_model
from megatron_dream.evaluation.harness.settings import Settings
from tests.system.tiny_export import make_tiny_export

SAMPLING = {"max_new_tokens": 6, "steps": 6, "temperature": 0.8, "top_p": 0.95, "alg": "entropy"}
SETTINGS = Settings(sampling=SAMPLING)
TASKS = [Task("a", Ask(text="def add(a, b):\n"), None), Task("b", Ask(text="import"), None)]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_tiny_export(tmp_path_factory.mktemp("model") / "export")


@pytest.fixture(scope="module")
def model(export):
    return open_model(export)


def test_an_answer_does_not_depend_on_the_batch(model):
    rows = [model.encode(task, SETTINGS) for task in TASKS]
    together = model.answer(rows, [3, 4], TASKS, SETTINGS)
    alone = [
        model.answer([row], [seed], [task], SETTINGS)[0]
        for row, seed, task in zip(rows, (3, 4), TASKS, strict=True)
    ]
    assert [made.text for made in together] == [made.text for made in alone]
    assert [made.opened for made in together] == [made.opened for made in alone]
    other = model.answer(rows[:1], [5], TASKS[:1], SETTINGS)[0]
    assert other.text != together[0].text
    assert all(made.num_forward == len(set(made.opened)) for made in alone if made.num_tokens == 6)


def test_chats_begin_with_the_prefill(model):
    ask = Ask(messages=({"role": "user", "content": "Add."},), prefill="Sure:\n")
    row = model.encode(Task("a", ask, None), SETTINGS)
    text = model.sampler.tokenizer.decode(row.ids)
    assert text.endswith("<|im_start|>assistant\nSure:\n") and "Add." in text


def test_gaps_of_each_kind(model):
    task = Task("g", Ask(gap=("def add(a, b):\n", "\n    return c\n")), None)
    fixed = Settings(sampling={"temperature": 0.0, "alg": "entropy"}, gap="5")
    row = model.encode(task, fixed)
    assert row.num_masks == 5 and row.suffix[-1] == model.sampler.tokenizer.eos_id
    (made,) = model.answer([row], [1], [task], fixed)
    assert made.num_tokens <= 5
    fast = dataclasses.replace(
        fixed, sampling={**fixed.sampling, "steps": 2, "cuda_graphs": "auto"}
    )
    (made,) = model.answer([row], [1], [task], fast)
    assert made.num_forward <= 2 and len(set(made.opened)) <= 2
    growing = Settings(sampling={"temperature": 0.0, "alg": "entropy"})
    row = model.encode(task, growing)
    (made,) = model.answer([row], [1], [task], growing)
    assert row.num_masks == 0 and len(made.opened) == made.num_tokens


def test_a_prompt_that_does_not_fit_is_told(model):
    task = Task("long", Ask(text="x = 1\n" * 900), None)
    with pytest.raises(DataError, match=r"long: \d+ tokens and 6 new ones exceed the model's 1024"):
        model.encode(task, SETTINGS)


def test_public_dream_gets_masks_of_pairs(model):
    """The public code hands its mask to attention as it comes; ours makes it from [B, S] itself."""
    seen = []

    class Public:
        config = model.sampler.model.config

        def diffusion_generate(self):
            raise AssertionError

        def __call__(self, input_ids, attention_mask, position_ids):
            seen.append(attention_mask)
            return model.sampler.model(input_ids=input_ids, position_ids=position_ids)

    wrapped = PublicDream(Public())
    ids = torch.ones(1, 3, dtype=torch.int64)
    wrapped(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1]]), position_ids=None)
    assert seen[0].shape == (1, 1, 3, 3)
    assert seen[0][0, 0].tolist() == [
        [True, False, False],
        [False, True, True],
        [False, True, True],
    ]
    with pytest.raises(ConfigError, match="neither a Dream-type model"):
        PublicDream(object())


def test_rotary_frequencies_that_loading_left_unset_are_refused(model):
    class Public(torch.nn.Module):
        config = SimpleNamespace(rope_theta=1e6)

        def __init__(self, inv_freq):
            super().__init__()
            self.register_buffer("inv_freq", inv_freq, persistent=False)

        def diffusion_generate(self):
            raise AssertionError

    right = 1e6 ** -(torch.arange(0, 128, 2) / 128)
    PublicDream(Public(right))
    for wrong in (torch.zeros(64), torch.full((64,), float("nan")), right * 1e4):
        with pytest.raises(ModelFolderError, match="import-hf"):
            PublicDream(Public(wrong))


def test_blocks_of_a_model_without_a_cache_are_run_exactly(model, capsys):
    """Public Dream has none, and the paper's settings for LiveCodeBench ask for one."""

    class Callable:
        config = model.sampler.model.config

        def __call__(self, input_ids, attention_mask=None, position_ids=None):
            return model.sampler.model(input_ids, attention_mask, position_ids)

    bare = DiffusionModel(dataclasses.replace(model.sampler, model=Callable()))
    asked = Settings(sampling={**SAMPLING, "block_length": 3, "steps": 6, "cache": "prefix"})
    exact = Settings(sampling={**SAMPLING, "block_length": 3, "steps": 6})
    rows = [model.encode(TASKS[0], asked)]
    made = [bare.answer(rows, [7], TASKS[:1], asked) for _ in range(2)]
    assert made[0] == made[1] == bare.answer(rows, [7], TASKS[:1], exact)
    assert capsys.readouterr().out.count("cannot keep prefix caches") == 1


def test_other_weights_have_another_name(export, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(export, copy)
    assert fingerprint(copy) == fingerprint(export)
    shard = sorted(copy.glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert fingerprint(copy) != fingerprint(export)


# left to right


@pytest.fixture(scope="module")
def left_to_right(tmp_path_factory, shared_data):
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("ar") / "model"
    tokenizer = AutoTokenizer.from_pretrained(str(shared_data / "qwen2_tokenizer"))
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    network = Qwen2ForCausalLM(config)
    for parameter in network.parameters():
        parameter.data.mul_(8)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_which_folders_go_from_left_to_right(export, left_to_right):
    assert is_autoregressive(Path(left_to_right)) and not is_autoregressive(export)
    assert json.loads((left_to_right / "config.json").read_text())["model_type"] == "qwen2"


def test_weights_of_a_kind_are_for_exports(export, left_to_right):
    wanted = open_model(export, "bf16").sampler.model.lm_head.weight.dtype
    assert wanted == torch.bfloat16
    with pytest.raises(ConfigError, match="--weights fp8 is for folders that export-hf wrote"):
        open_model(left_to_right, "fp8")


def test_greedy_answers_are_those_of_generate(left_to_right):
    model = open_model(left_to_right)
    assert isinstance(model, AutoregressiveModel) and not isinstance(model, DiffusionModel)
    greedy = Settings(sampling={"max_new_tokens": 12, "temperature": 0.0})
    rows = [model.encode(task, greedy) for task in TASKS]
    made = model.answer(rows, [0, 1], TASKS, greedy)
    for row, one in zip(rows, made, strict=True):
        ids = torch.tensor([row.ids])
        wanted = model.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        text = model.tokenizer.decode(wanted[0, len(row.ids) :], skip_special_tokens=True)
        assert one.text == text


def test_draws_are_each_rows_own(left_to_right):
    model = open_model(left_to_right)
    drawn = Settings(sampling={"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.9})
    rows = [model.encode(task, drawn) for task in TASKS]
    together = [one.text for one in model.answer(rows, [3, 4], TASKS, drawn)]
    alone = [
        model.answer([r], [s], [t], drawn)[0].text
        for r, s, t in zip(rows, (3, 4), TASKS, strict=True)
    ]
    assert together == alone
    assert model.answer(rows[:1], [9], TASKS[:1], drawn)[0].text != together[0]


def test_infilling_by_the_models_own_tokens(left_to_right):
    model = open_model(left_to_right)
    row = model.encode(Task("g", Ask(gap=("a", "b")), None), SETTINGS)
    text = model.tokenizer.decode(row.ids)
    if "<|fim_prefix|>" in model.tokenizer.get_vocab():
        assert text == "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
