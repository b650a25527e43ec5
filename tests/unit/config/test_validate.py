"""Ranges of every number, and fields that contradict one another."""

import pytest

from megatron_dream.config.convert import field_types
from megatron_dream.config.load import load_config
from megatron_dream.config.schema import RunConfig
from megatron_dream.config.validate import RANGES, validate
from megatron_dream.errors import ConfigError

GOOD = (
    ("model.preset", "tiny"),
    ("tokenizer.path", "tokenizer.model"),
    ("data.train", "[{prefix: a}, {prefix: folder/b}]"),
    ("training.train_steps", "10"),
    ("checkpoint.run_folder", "runs/a"),
)


def number_fields():
    kinds = {int, float, int | None, float | None}
    for section, cls in field_types(RunConfig).items():
        yield from (f"{section}.{name}" for name, kind in field_types(cls).items() if kind in kinds)


def test_every_number_of_the_schema_has_a_range():
    assert set(RANGES) == set(number_fields())


def test_a_good_configuration_passes():
    validate(load_config(None, GOOD), "pretrain")


@pytest.mark.parametrize("path", RANGES)
def test_a_negative_number_is_refused_by_name(path):
    with pytest.raises(ConfigError, match=f"^{path} must be .*, it is -1"):
        validate(load_config(None, [*GOOD, (path, "-1")]))


@pytest.mark.parametrize(
    "path, value",
    [
        ("diffusion.cart_p", "0"),
        ("diffusion.cart_p", "1.01"),
        ("diffusion.t_min", "0"),
        ("diffusion.t_min", "1"),
        ("data.random_length", "1.5"),
        ("data.sequence_length", "1"),
        ("optimizer.adam_beta2", "1"),
        ("optimizer.lr", "0"),
        ("model.hidden_dropout", "1"),
        ("training.train_steps", "0"),
        ("training.seed", str(2**31)),
        ("checkpoint.keep_last", "0"),
    ],
)
def test_bounds(path, value):
    with pytest.raises(ConfigError, match=path):
        validate(load_config(None, [*GOOD, (path, value)]))


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"checkpoint.run_folder": ""}, "checkpoint.run_folder is not given"),
        ({"tokenizer.path": "null"}, "tokenizer.path is not given"),
        ({"data.train": "[]"}, "data.train is empty"),
        ({"data.train": "[{weight: 1}]"}, "data.train.0.prefix is not given"),
        ({"data.train": "[{prefix: a.bin}]"}, "data.train.0.prefix ends in .bin"),
        ({"data.train.1.weight": "0"}, "data.train.1.weight must be above 0"),
        ({"data.valid": "[{prefix: v, weight: -1}]"}, "data.valid.0.weight"),
        ({"data.train": "[{prefix: x/a}, {prefix: y/a}]"}, "both reported as 'a'"),
        ({"training.eval_interval": "5"}, "data.valid is empty"),
        ({"diffusion.attention": "anneal"}, "anneal_steps above 0"),
        ({"diffusion.anneal_steps": "5"}, "set attention to anneal"),
        (
            {"diffusion.complementary": "true", "training.global_batch_size": "3"},
            "even training.global_batch_size",
        ),
        (
            {
                "diffusion.complementary": "true",
                "training.global_batch_size": "2",
                "diffusion.objective": "ar",
            },
            "no meaning under diffusion.objective: ar",
        ),
    ],
)
def test_contradictions(overrides, words):
    with pytest.raises(ConfigError) as caught:
        validate(load_config(None, [*GOOD, *overrides.items()]))
    assert words in str(caught.value) and str(caught.value).endswith(".")


def test_an_unknown_stage():
    with pytest.raises(ConfigError, match="nearest one is pretrain"):
        validate(RunConfig(), "pretrian")


RL = (
    ("model.preset", "tiny"),
    ("tokenizer.path", "tokenizer.model"),
    ("rl.problems", "[a.jsonl, folder/b.jsonl]"),
    ("training.train_steps", "10"),
    ("checkpoint.run_folder", "runs/a"),
)


def test_a_good_rl_configuration_passes_and_a_list_of_texts_can_be_typed():
    config = load_config(None, RL)
    assert config.rl.problems == ["a.jsonl", "folder/b.jsonl"]
    validate(config, "rl")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rl.problems": "[]"}, "rl.problems is empty"),
        ({"data.train": "[{prefix: a}]"}, "data.train and data.valid have no meaning in rl"),
        ({"training.eval_interval": "5"}, "rl.valid is empty"),
        ({"rl.t_low": "0.9", "rl.t_high": "0.1"}, "rl.t_low 0.9 is above rl.t_high 0.1"),
        (
            {"rl.isolation": "process", "rl.judge_endpoints": "[http://a:1]"},
            "rl.isolation process is of this machine",
        ),
        ({"rl.judge_endpoints": "[a:1]"}, "rl.judge_endpoints has 'a:1'"),
        ({"diffusion.objective": "ar"}, "diffusion.objective is ar"),
        ({"training.global_batch_size": "96"}, "an update of rl holds 2 x .* = 3072 rows"),
        ({"parallel.context_parallel_size": "2"}, "without context, sequence and virtual pipeline"),
        ({"parallel.sequence_parallel": "true"}, "without context, sequence and virtual pipeline"),
        ({"model.layer_spec": "transformer_engine"}, "layer_spec local"),
        ({"parallel.pipeline_model_parallel_size": "2"}, "rl.cache is not served"),
        ({"parallel.overlap_param_gather": "true"}, "overlap_param_gather"),
        ({"rl.kl_coefficient": "0.1", "rl.ratio": "sequence"}, "rl.kl_coefficient"),
        ({"sft.pad": "max"}, "sft has no meaning in the rl stage"),
        ({"rl.group_size": "1"}, "rl.group_size must be 2 or more"),
    ],
)
def test_what_rl_cannot_do_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        validate(load_config(None, [*RL, *changes.items()]), "rl")


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_rl_has_no_meaning_elsewhere(stage):
    with pytest.raises(ConfigError, match="rl has no meaning in"):
        validate(load_config(None, [*GOOD, ("rl.group_size", "4")]), stage)
