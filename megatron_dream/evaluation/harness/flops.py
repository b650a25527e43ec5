"""FLOPs of a model's forward passes, by the convention of training/throughput.py.

2 FLOPs a weight and column; attention 4 L s hidden a column, s the columns that it sees (half of that
where it is causal); the head on the rows for which logits were made. Norms, rotations and draws are free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...config.schema import ModelConfig
from ...training.throughput import layer_parameters


@dataclass(frozen=True)
class Shape:
    """What the count needs of a model.

    Attributes:
        num_layers: of the body.
        hidden_size: width.
        layer_weights: weights of the matrices of one layer.
        vocab_size: rows of the head.
    """

    num_layers: int
    hidden_size: int
    layer_weights: int
    vocab_size: int

    @classmethod
    def of_config(cls, model: ModelConfig) -> Shape:
        """Of a checkpoint's."""
        return cls(model.num_layers, model.hidden_size, layer_parameters(model), model.vocab_size)

    @classmethod
    def of_huggingface(cls, config: Any) -> Shape:
        """Of a config.json of Qwen's or Llama's kind."""
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        projections = config.hidden_size * head_dim * (2 * heads + 2 * groups)
        weights = projections + 3 * config.hidden_size * config.intermediate_size
        return cls(config.num_hidden_layers, config.hidden_size, weights, config.vocab_size)


def forward_flops(shape: Shape, columns: float, seen: float, head_rows: float) -> float:
    """Of all passes together.

    Args:
        shape: of the model.
        columns: that were run, over all passes.
        seen: columns that each of them attends to, on average.
        head_rows: for which logits were made, over all passes.
    """
    body = 2.0 * shape.num_layers * shape.layer_weights * columns
    attention = 4.0 * shape.num_layers * shape.hidden_size * seen * columns
    return body + attention + 2.0 * shape.hidden_size * shape.vocab_size * head_rows
