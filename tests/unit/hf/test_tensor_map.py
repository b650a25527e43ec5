"""Names, shapes and bits of the map between Hugging Face and megatron-core tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.presets import PRESETS
from megatron_dream.config.schema import ModelConfig
from megatron_dream.hf.tensor_map import (
    SliceReader,
    entries,
    entries_by_megatron_name,
    huggingface_shapes,
    join_shards,
    layer_entries,
    read_shard,
    to_huggingface,
)


def reader_of(tensors: Mapping[str, torch.Tensor]) -> SliceReader:
    return lambda name, index: tensors[name][index]


def random_tensors(model: ModelConfig) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in huggingface_shapes(model).items()}


@st.composite
def models(draw: st.DrawFn, tp_size: int) -> ModelConfig:
    """Small shapes that ``tp_size`` divides, the vocabulary excepted."""
    groups = tp_size * draw(st.integers(1, 2))
    heads = groups * draw(st.integers(1, 3))
    return ModelConfig(
        num_layers=draw(st.integers(1, 2)),
        hidden_size=heads * 2 * draw(st.integers(1, 2)),
        num_attention_heads=heads,
        num_query_groups=groups,
        ffn_hidden_size=tp_size * draw(st.integers(1, 4)),
        vocab_size=draw(st.integers(1, 19)),
        tie_word_embeddings=draw(st.booleans()),
        add_qkv_bias=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    tp_size=st.sampled_from([1, 2, 4]),
    spec=st.sampled_from(["local", "transformer_engine"]),
)
def test_round_trip_is_bit_exact(data: st.DataObject, tp_size: int, spec: str) -> None:
    model = data.draw(models(tp_size))
    tensors = random_tensors(model)
    back: dict[str, torch.Tensor] = {}
    for entry in entries(model, spec):  # type: ignore[arg-type]
        shards = [
            read_shard(entry, reader_of(tensors), model, rank, tp_size) for rank in range(tp_size)
        ]
        assert len({shard.shape for shard in shards}) == 1
        back |= to_huggingface(entry, join_shards(entry, shards), model)
    assert list(back) == list(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_qkv_rows_are_per_group_queries_key_value() -> None:
    """Each row is labelled by its source, head and dimension, so the order can be read off."""
    model = ModelConfig(
        num_layers=1,
        hidden_size=8,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=4,
        vocab_size=3,
    )
    tensors = random_tensors(model)
    names = {part: f"model.layers.0.self_attn.{part}_proj.bias" for part in "qkv"}
    tensors[names["q"]] = torch.tensor([0.0, 1, 10, 11, 20, 21, 30, 31])
    tensors[names["k"]] = torch.tensor([100.0, 101, 110, 111])
    tensors[names["v"]] = torch.tensor([200.0, 201, 210, 211])
    bias = next(e for e in layer_entries(model, 0) if e.name.endswith("linear_qkv.bias"))
    whole = read_shard(bias, reader_of(tensors), model)
    first, second = [0, 1, 10, 11, 100, 101, 200, 201], [20, 21, 30, 31, 110, 111, 210, 211]
    assert whole.tolist() == first + second
    assert read_shard(bias, reader_of(tensors), model, 1, 2).tolist() == second


def test_each_shard_of_fc1_holds_its_part_of_gate_and_up() -> None:
    model = ModelConfig(
        num_layers=1,
        hidden_size=2,
        num_attention_heads=1,
        num_query_groups=1,
        ffn_hidden_size=4,
        vocab_size=3,
    )
    tensors = random_tensors(model)
    fc1 = next(e for e in layer_entries(model, 0) if "linear_fc1" in e.name)
    gate, up = (tensors[source] for source in fc1.sources)
    shard = read_shard(fc1, reader_of(tensors), model, 1, 2)
    assert torch.equal(shard, torch.cat([gate[2:], up[2:]]))


@pytest.mark.parametrize(("vocab_size", "tp_size"), [(5, 4), (6, 4), (8, 4), (1, 4)])
def test_table_is_padded_with_zeros_to_a_multiple_of_tp(vocab_size: int, tp_size: int) -> None:
    model = ModelConfig(
        num_layers=1,
        hidden_size=4,
        num_attention_heads=2,
        num_query_groups=1,
        ffn_hidden_size=4,
        vocab_size=vocab_size,
    )
    tensors = random_tensors(model)
    entry = entries(model)[0]
    shards = [read_shard(entry, reader_of(tensors), model, r, tp_size) for r in range(tp_size)]
    table = torch.cat(shards)
    assert table.shape[0] == -(-vocab_size // tp_size) * tp_size
    assert torch.equal(table[:vocab_size], tensors[entry.sources[0]])
    assert not table[vocab_size:].any()


def test_only_the_needed_part_is_read() -> None:
    """A rank of TP 4 reads a quarter of every split tensor."""
    model = ModelConfig(
        num_layers=1,
        hidden_size=16,
        num_attention_heads=8,
        num_query_groups=4,
        ffn_hidden_size=8,
        vocab_size=16,
    )
    tensors, read = random_tensors(model), 0

    def counting(name: str, index: tuple[slice, ...]) -> torch.Tensor:
        nonlocal read
        part = tensors[name][index]
        read += part.numel() if part.dim() > 1 or "bias" in name else 0
        return part

    for entry in entries(model):
        read_shard(entry, counting, model, 2, 4)
    split = [t for name, t in tensors.items() if t.dim() > 1 or "bias" in name]
    assert read == sum(tensor.numel() for tensor in split) // 4


def test_seven_billion_model_has_the_published_number_of_tensors_and_bytes() -> None:
    model = ModelConfig(**PRESETS["qwen2.5-coder-7b"])
    shapes = huggingface_shapes(model)
    assert len(shapes) == 339
    assert 2 * sum(math.prod(shape) for shape in shapes.values()) == 15_231_233_024


@pytest.mark.parametrize("tied", [False, True])
def test_every_megatron_name_is_known(tied: bool) -> None:
    model = ModelConfig(**PRESETS["qwen2.5-coder-0.5b"] | {"tie_word_embeddings": tied})
    known = entries_by_megatron_name(model)
    assert "decoder.layers.23.input_layernorm.weight" in known
    assert "decoder.layers.23.mlp.linear_fc1.layer_norm_weight" in known
    source = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert known["output_layer.weight"].sources == (source,)


def test_sizes_that_tp_does_not_divide_are_refused() -> None:
    model = ModelConfig(
        num_layers=1,
        hidden_size=8,
        num_attention_heads=4,
        num_query_groups=1,
        ffn_hidden_size=4,
        vocab_size=3,
    )
    qkv = layer_entries(model, 0)[1]
    with pytest.raises(ValueError, match="divided over TP 2"):
        read_shard(qkv, reader_of(random_tensors(model)), model, 0, 2)
