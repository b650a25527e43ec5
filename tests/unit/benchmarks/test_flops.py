"""FLOPs of a token: published runs' tokens and TFLOP a second follow from their conventions."""

import pytest

from benchmarks.gpu_kit.aims import AIMS_7B, ANCHORS, aim_share
from benchmarks.gpu_kit.flops import CONVENTIONS, token_flops
from megatron_dream.config.schema import DiffusionConfig, ModelConfig
from megatron_dream.training.throughput import flops_per_token

LLAMA_8B = ModelConfig(
    num_layers=32,
    hidden_size=4096,
    num_attention_heads=32,
    num_query_groups=8,
    ffn_hidden_size=14336,
    vocab_size=128256,
    add_qkv_bias=False,
)
LLAMA_70B = ModelConfig(
    num_layers=80,
    hidden_size=8192,
    num_attention_heads=64,
    num_query_groups=8,
    ffn_hidden_size=28672,
    vocab_size=128256,
    add_qkv_bias=False,
)


@pytest.mark.parametrize(
    ("model", "convention", "tokens", "tflops"),
    [
        (LLAMA_8B, "megatron_lm", 13812, 800),
        (LLAMA_70B, "megatron_lm", 1621, 780),
        (LLAMA_8B, "megatron_bridge", 14451, 744),
        (LLAMA_70B, "megatron_bridge", 1633, 734),
        (LLAMA_70B, "megatron_bridge", 866.77, 389),
    ],
)
def test_published_rows(model, convention, tokens, tflops):
    """Both columns of a published row are of one convention: their ratio is its FLOP a token."""
    flops = token_flops(model, DiffusionConfig(), 8192)[convention]
    assert tokens * flops / 1e12 == pytest.approx(tflops, rel=2e-3)


def test_torchtitan_counts_norms_too():
    flops = token_flops(LLAMA_8B, DiffusionConfig(), 8192)
    assert flops["torchtitan"] - flops["megatron_lm"] == 6 * (32 * 2 * 4096 + 4096)


def test_ours_is_the_projects():
    flops = token_flops(LLAMA_8B, DiffusionConfig(), 2048)
    assert set(flops) == set(CONVENTIONS)
    assert flops["ours"] == flops_per_token(LLAMA_8B, DiffusionConfig(), 2048)
    # The head on half of the rows is what is saved.
    head = 6 * 4096 * 128256
    assert flops["megatron_lm"] - flops["ours"] == pytest.approx(head * (1 - 0.5005))


def test_a_tied_table_is_one_product():
    tied = ModelConfig(**{**LLAMA_8B.__dict__, "tie_word_embeddings": True})
    assert token_flops(tied, DiffusionConfig(), 8192) == token_flops(
        LLAMA_8B, DiffusionConfig(), 8192
    )


def test_anchors_are_told_by_their_own_convention():
    for anchor in ANCHORS:
        assert 0.3 < anchor.shares[0] <= anchor.shares[1] < 0.9
        if anchor.tokens:
            flops = token_flops(LLAMA_8B, DiffusionConfig(), 8192)[anchor.convention]
            assert anchor.tokens * flops / 1e12 == pytest.approx(anchor.tflops[0], rel=5e-3)


def test_the_aims_are_shares_that_a_device_can_reach():
    for key in AIMS_7B:
        assert 0.4 < aim_share(*key) < 0.9
    assert aim_share("fp32", 2048) is None and aim_share("bf16", 1024) is None
