"""Presets: the published shapes, and that what is given wins."""

import pytest

from megatron_dream.config.load import load_config
from megatron_dream.config.presets import PRESETS, resolve_model
from megatron_dream.config.schema import ModelConfig
from megatron_dream.errors import ConfigError


def parameters(model):
    """Number of parameters of a Qwen2-type model."""
    head = model.hidden_size // model.num_attention_heads
    width = model.num_attention_heads * head
    kv = 2 * model.num_query_groups * head
    attention = model.hidden_size * (width + kv) + width + kv + width * model.hidden_size
    layer = attention + 3 * model.hidden_size * model.ffn_hidden_size + 2 * model.hidden_size
    tables = (1 if model.tie_word_embeddings else 2) * model.vocab_size * model.hidden_size
    return model.num_layers * layer + tables + model.hidden_size


# numbers of parameters in the published safetensors of Qwen2.5-Coder
@pytest.mark.parametrize(
    "size, count",
    [
        ("0.5b", 494_032_768),
        ("1.5b", 1_543_714_304),
        ("3b", 3_085_938_688),
        ("7b", 7_615_616_512),
        ("14b", 14_770_033_664),
        ("32b", 32_763_876_352),
    ],
)
def test_shapes_give_the_published_number_of_parameters(size, count):
    model = resolve_model(ModelConfig(preset=f"qwen2.5-coder-{size}"))
    assert parameters(model) == count


def test_what_is_given_wins_even_where_it_is_the_default():
    name = "qwen2.5-coder-0.5b"
    assert load_config(None, [("model.preset", name)]).model.tie_word_embeddings is True
    overrides = [("model.preset", name), ("model.tie_word_embeddings", "false")]
    overrides += [("model.num_layers", "2"), ("model.vocab_size", "0")]
    model = load_config(None, overrides).model
    assert (model.tie_word_embeddings, model.num_layers, model.vocab_size) == (False, 2, 0)
    assert model.hidden_size == 896
    assert resolve_model(model) == model


def test_in_python_a_field_at_its_default_is_not_given():
    model = resolve_model(ModelConfig(preset="tiny", num_layers=2))
    assert (model.num_layers, model.hidden_size, model.tie_word_embeddings) == (2, 192, True)
    assert model.max_position_embeddings == 2048


def test_resolving_leaves_the_original_alone():
    model = ModelConfig(preset="tiny")
    resolve_model(model)
    assert model == ModelConfig(preset="tiny")


def test_unknown_preset_and_missing_shape():
    with pytest.raises(ConfigError, match="the nearest one is qwen2.5-coder-7b"):
        resolve_model(ModelConfig(preset="qwen2.5-7b"))
    with pytest.raises(ConfigError, match="model.ffn_hidden_size: not given; set model.preset"):
        shape = {k: v for k, v in PRESETS["tiny"].items() if k != "ffn_hidden_size"}
        resolve_model(ModelConfig(**shape))
