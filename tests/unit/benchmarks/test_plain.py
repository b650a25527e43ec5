"""The plain side attends in both directions, compiled too, and loses what we lose on equal weights."""

import pytest
import torch

from benchmarks.gpu_kit.train_job import plain_logits, plain_model
from megatron_dream.config.schema import ModelConfig

SHAPE = ModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=64,
    vocab_size=50,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_the_first_position_sees_the_last(compiled):
    """Traced by dynamo without a compiler behind it: transformers chooses masks otherwise when traced."""
    torch.manual_seed(0)
    model = plain_model(SHAPE)
    if compiled:
        model.compile(backend="eager")
    tokens = torch.arange(12).view(1, 12)
    other = tokens.clone()
    other[0, -1] = 40
    apart = (plain_logits(model, tokens) - plain_logits(model, other)).abs().amax(-1)[0]
    assert (apart > 0).all()
    torch._dynamo.reset()
