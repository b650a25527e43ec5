"""The layout: its equation, and the refusal of what does not divide or computes wrongly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.layout import resolve_layout
from megatron_dream.config.load import load_config
from megatron_dream.errors import LayoutError

TP = "parallel.tensor_model_parallel_size"
PP = "parallel.pipeline_model_parallel_size"
VP = "parallel.virtual_pipeline_model_parallel_size"
CP = "parallel.context_parallel_size"
SP = "parallel.sequence_parallel"
SHARDS = {TP: 2, SP: "true"}


def make(**fields):
    """A tiny run; names use __ for the dot."""
    overrides = [("model.preset", "tiny"), ("training.global_batch_size", "64")]
    overrides += [(name.replace("__", "."), str(value)) for name, value in fields.items()]
    return load_config(None, overrides)


def with_fields(fields):
    return make(**{name.replace(".", "__"): value for name, value in fields.items()})


def test_the_equation_has_every_operand():
    layout = resolve_layout(with_fields({TP: 2, PP: 2, "training.micro_batch_size": 2}), 8)
    assert layout.equation() == (
        "world size 8 = TP 2 x PP 2 x CP 1 x DP 2; "
        "global batch 64 = micro batch 2 x DP 2 x accumulation 16"
    )
    interleaved = resolve_layout(with_fields({PP: 2, VP: 2}), 2)
    assert "PP 2 (x VP 2 chunks)" in interleaved.equation()


REFUSED = {
    "world size": ({TP: 2, PP: 2}, 6, "world size 6 = TP 2 x PP 2 x CP 1 x DP 6/4 is not whole"),
    "no process": ({}, 0, "world size 0"),
    "zero size": ({TP: 0}, 1, "TP is 0"),
    "global batch": ({"training.micro_batch_size": 3}, 2, "accumulation 64/6 is not whole"),
    "kv groups": ({TP: 3}, 3, "model.num_query_groups 2 is not divisible by TP 3"),
    "heads": ({TP: 4}, 4, "model.num_attention_heads 6 is not divisible by TP 4"),
    "ffn": ({TP: 2, "model.ffn_hidden_size": 511}, 2, "model.ffn_hidden_size 511"),
    "layers": ({PP: 3}, 3, "model.num_layers 4 is not divisible by PP 3 x VP 1"),
    "layers by chunks": ({PP: 2, VP: 4}, 2, "PP 2 x VP 4 = 8"),
    "chunks without a pipeline": ({VP: 2}, 1, "without a pipeline"),
    "one chunk": ({PP: 2, VP: 1}, 2, "interleaves nothing"),
    "interleaving": (
        {PP: 2, VP: 2, "training.global_batch_size": 3},
        2,
        "an accumulation divisible by PP 2, it is 3",
    ),
    "sp without tp": ({SP: "true"}, 1, "set it to false"),
    "sp length": ({TP: 2, SP: "true", "data.sequence_length": 511}, 2, "SP over TP 2"),
    "cp length": ({CP: 2, "data.sequence_length": 510}, 2, "4 (2 x CP 2); 508 would do"),
    "cp and sp length": (
        {CP: 2, TP: 2, SP: "true", "data.sequence_length": 516},
        4,
        "8 (SP over TP 2 x 2 x CP 2)",
    ),
    "positions": ({"data.sequence_length": 4096}, 1, "model.max_position_embeddings 2048"),
    "head size": ({"model.hidden_size": 190}, 1, "not divisible by model.num_attention_heads 6"),
    "odd head": ({"model.hidden_size": 18}, 1, "the size of a head is odd"),
    "groups": ({"model.num_query_groups": 4}, 1, "model.num_query_groups 4; change"),
    "gather without sharding": (
        {"parallel.overlap_param_gather": "true", "parallel.use_distributed_optimizer": "false"},
        1,
        "needs parallel.use_distributed_optimizer",
    ),
    "gather without reduce": (
        {"parallel.overlap_param_gather": "true"},
        1,
        "needs parallel.overlap_grad_reduce",
    ),
    "fused attention": (
        {CP: 2, "model.layer_spec": "transformer_engine", "data.document_masks": "true"},
        2,
        "no documents and no padding",
    ),
    "FP8 rows": (
        {"fp8.recipe": "current", "data.sequence_length": 100},
        1,
        "rows s 100 x b 1 / CP 1 = 100 is 6.25 x 16; rows of 96 would do",
    ),
    "FP8 rows of a shard": (
        {"fp8.recipe": "blockwise", **SHARDS, "data.sequence_length": 320},
        2,
        "rows s 320 x b 1 / CP 1 / TP 2 = 160 is 1.25 x 128; rows of 256 would do",
    ),
    "FP8 columns": (
        {"fp8.recipe": "delayed", "model.ffn_hidden_size": 520},
        1,
        "columns model.ffn_hidden_size / TP 1 = 520 is 32.5 x 16",
    ),
    "FP8 columns of a shard": (
        {"fp8.recipe": "blockwise", **SHARDS, "model.ffn_hidden_size": 512},
        2,
        "gathered columns model.hidden_size = 192 is 1.5 x 128",
    ),
    "FP8 blocks of Blackwell": (
        {"fp8.recipe": "mxfp8", TP: 2, "model.ffn_hidden_size": 544},
        2,
        "columns model.ffn_hidden_size / TP 2 = 272 is 8.5 x 32",
    ),
    "bf16 layers": (
        {"fp8.recipe": "current", PP: 2, "fp8.first_layers_bf16": 3},
        2,
        "layers 4 / PP 2 = 2",
    ),
    "bf16 everywhere": (
        {"fp8.recipe": "current", "fp8.first_layers_bf16": 2, "fp8.last_layers_bf16": 2},
        1,
        "leave none of 4 layers in FP8",
    ),
    "fused annealing": (
        {
            "model.layer_spec": "transformer_engine",
            "diffusion.attention": "anneal",
            "diffusion.anneal_steps": 10,
        },
        1,
        "anneal needs a mask",
    ),
    "validation rows": (
        {"training.eval_interval": 5, "training.eval_samples": 6, "training.micro_batch_size": 4},
        2,
        "training.eval_samples 6 is no multiple of micro batch 4 x DP 2 = 8",
    ),
    "optimizer format": (
        {
            "checkpoint.optimizer_format": "dp_reshardable",
            "parallel.use_distributed_optimizer": "false",
        },
        1,
        "dp_reshardable",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_operands_and_remedy(case):
    fields, world_size, words = REFUSED[case]
    with pytest.raises(LayoutError) as caught:
        resolve_layout(with_fields(fields), world_size)
    assert words in str(caught.value) and str(caught.value).endswith(".")
    if case not in ("zero size",):
        assert "world size" in str(caught.value)


sizes = st.sampled_from([1, 2, 3, 4])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 64), sizes, sizes, sizes, st.integers(1, 4), st.integers(1, 96))
def test_an_accepted_layout_satisfies_both_equations(world_size, tp, pp, cp, micro, batch):
    config = make(model__num_attention_heads=12, model__num_query_groups=12, model__num_layers=12)
    config.parallel.tensor_model_parallel_size = tp
    config.parallel.pipeline_model_parallel_size = pp
    config.parallel.context_parallel_size = cp
    config.training.micro_batch_size, config.training.global_batch_size = micro, batch
    config.data.sequence_length, config.model.ffn_hidden_size = 48, 48
    fits = world_size % (tp * pp * cp) == 0
    fits = fits and batch % (micro * (world_size // (tp * pp * cp))) == 0
    if not fits:
        with pytest.raises(LayoutError, match="not whole"):
            resolve_layout(config, world_size)
        return
    layout = resolve_layout(config, world_size)
    assert layout.tp * layout.pp * layout.cp * layout.dp == world_size
    assert layout.micro_batch_size * layout.dp * layout.num_microbatches == batch


def test_documents_go_round_a_ring_in_any_micro_batch():
    fields = {
        CP: 2,
        "model.layer_spec": "transformer_engine",
        "data.document_masks": "true",
        "parallel.cp_comm_type": "p2p",
        "training.micro_batch_size": 4,
        "data.sequence_length": 256,
        "fp8.recipe": "current",
    }
    layout = resolve_layout(with_fields(fields), 2)
    assert layout.width_unit == 8  # 8 x b 4 / CP 2 = 16 rows of a product
    assert layout.packed_unit == 32
