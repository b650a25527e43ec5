"""The recipes of the sft and rl stages: they load, and say which of their lines are published."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from megatron_dream.config.layout import resolve_layout
from megatron_dream.config.load import load_config
from megatron_dream.config.validate import validate
from megatron_dream.rl.run import complete

TASKS = {
    "dream_coder_7b/sft.yaml": ("answer", (8, 64, 1152)),
    "tiny/sft.yaml": ("answer", (2,)),
    "dreamon_7b/sft.yaml": ("infill", (8, 64, 256)),
    "tiny/infill.yaml": ("infill", (2,)),
    "tiny/rl_start.yaml": ("answer", (1,)),
}
# SPEC 5, 6 and 8; every other line of a recipe must be marked as ours
PUBLISHED = {
    "dreamon_7b/sft.yaml": (
        "preset sequence_length objective weight attention task lr expand_probability "
        "global_batch_size init_from"
    ),
    "dream_coder_7b/sft.yaml": (
        "preset sequence_length objective weight cart_p task truncation truncation_group_size "
        "pad_attended response_end eos_as_one eos_loss lr lr_decay_style lr_warmup_fraction adam_beta1 "
        "adam_beta2 weight_decay clip_grad train_steps global_batch_size init_from train"
    ),
    "dream_coder_7b/rl.yaml": (
        "preset layer_spec problems template prompts_per_step group_size max_prompt_length "
        "response_length temperature top_p alg steps block_length cache policy_epochs masks weight cart_p "
        "aggregation ratio clip_low clip_high kl_coefficient pad_loss substitution lr min_lr_ratio "
        "lr_decay_style adam_beta1 adam_beta2 weight_decay clip_grad train_steps init_from"
    ),
}


@pytest.mark.parametrize(
    ("name", "sizes"), [("dream_coder_7b/rl.yaml", (8, 64)), ("tiny/rl.yaml", (1, 2))]
)
def test_an_rl_recipe_loads_and_validates(
    repository_root: Path, name: str, sizes: tuple[int, ...]
) -> None:
    config = load_config(repository_root / "examples" / name)
    validate(config, "rl")
    complete(config)
    for processes in sizes:
        resolve_layout(config, processes, "rl")


def test_the_published_values_of_rl(repository_root: Path) -> None:
    config = load_config(repository_root / "examples" / "dream_coder_7b" / "rl.yaml")
    rl, optimizer = config.rl, config.optimizer
    assert (rl.prompts_per_step, rl.group_size, rl.policy_epochs) == (96, 16, 2)
    assert (rl.max_prompt_length, rl.response_length, rl.block_length) == (512, 768, 32)
    assert (rl.temperature, rl.top_p, rl.clip_low, rl.clip_high) == (1.0, 0.95, 0.2, 0.28)
    assert (optimizer.lr, optimizer.adam_beta1, optimizer.adam_beta2) == (5e-7, 0.9, 0.999)
    assert config.training.train_steps == math.ceil(15 * 17_000 / 96)


@pytest.mark.parametrize("name", TASKS)
def test_a_recipe_loads_and_validates(repository_root: Path, name: str) -> None:
    config, (task, sizes) = load_config(repository_root / "examples" / name), TASKS[name]
    validate(config, "sft")
    assert config.sft.task == task
    for processes in sizes:
        resolve_layout(config, processes, "sft")


def test_the_published_values(repository_root: Path) -> None:
    infill = load_config(repository_root / "examples" / "dreamon_7b" / "sft.yaml")
    assert (infill.data.sequence_length, infill.training.global_batch_size) == (1024, 128)
    assert (infill.optimizer.lr, infill.sft.expand_probability) == (1e-5, 0.5)
    assert infill.training.train_steps == math.ceil(5 * 100_000 / 128)
    answer = load_config(repository_root / "examples" / "dream_coder_7b" / "sft.yaml")
    assert (answer.data.sequence_length, answer.training.global_batch_size) == (4000, 576)
    assert answer.training.train_steps == math.ceil(7 * 5_000_000 / 576)
    optimizer = answer.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.clip_grad) == (5e-6, 0.01, 1.0)
    assert (optimizer.adam_beta1, optimizer.adam_beta2) == (0.9, 0.95)
    assert (optimizer.lr_warmup_fraction, optimizer.lr_decay_style) == (0.1, "cosine")
    assert (answer.diffusion.weight, answer.diffusion.cart_p) == ("cart", 0.1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_line_that_is_not_published_is_marked(repository_root: Path, name: str) -> None:
    text = (repository_root / "examples" / name).read_text(encoding="utf-8")
    for line in text.splitlines():
        field = re.match(r"\s+(\w+): \S", line)
        if field is not None:
            assert ("# ours" in line) != (field[1] in PUBLISHED[name].split()), line
