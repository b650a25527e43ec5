"""FLOPs of a token as this project and as published runs count them.

Compare tokens a second across sources; a share of a peak only under one convention. Sources: Megatron-LM's
and Megatron-Bridge's published tables, whose tokens and TFLOP a second these formulas reproduce
(tests/unit/benchmarks/test_flops.py), and torchtitan's ``get_nparams_and_flops``.
"""

from __future__ import annotations

from megatron_dream.config.schema import DiffusionConfig, ModelConfig
from megatron_dream.training.throughput import flops_per_token, layer_parameters

CONVENTIONS = ("ours", "megatron_lm", "torchtitan", "megatron_bridge")
WORDS = {
    "ours": "head on masked rows, attention in both directions (docs/training.md)",
    "megatron_lm": "6 (N - embedding) + 12 L h s: whole head, full attention",
    "torchtitan": "the same with norms and biases in N",
    "megatron_bridge": "6 (N - embedding) + 6 L h s: whole head, half the attention",
}


def matrix_parameters(model: ModelConfig) -> int:
    """Weights of the layers' matrices and of the output layer (which counts where it is tied, too)."""
    return model.num_layers * layer_parameters(model) + model.hidden_size * model.vocab_size


def small_parameters(model: ModelConfig) -> int:
    """Norms and biases."""
    head_dim = model.hidden_size // model.num_attention_heads
    bias = head_dim * (model.num_attention_heads + 2 * model.num_query_groups)
    per_layer = 2 * model.hidden_size + (bias if model.add_qkv_bias else 0)
    return model.num_layers * per_layer + model.hidden_size


def token_flops(
    model: ModelConfig, diffusion: DiffusionConfig, sequence_length: int
) -> dict[str, float]:
    """Training FLOPs of one token by convention, forward and backward."""
    attention = float(model.num_layers * model.hidden_size * sequence_length)
    whole = 6.0 * matrix_parameters(model)
    return {
        "ours": flops_per_token(model, diffusion, sequence_length),
        "megatron_lm": whole + 12 * attention,
        "torchtitan": whole + 6.0 * small_parameters(model) + 12 * attention,
        "megatron_bridge": whole + 6 * attention,
    }
