"""What the sampler asks of a megatron-core model: hidden states of some columns, logits of some states.

Keys reach the core attention after their rotation, so that it can write them into the sampler's cache
and read all that are there. Tensor parallelism: every rank gets the same states and logits. Pipeline
and sequence parallelism are not served.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..sampling.cache import KeyValueCache
from .attention import SegmentAttention


@torch.no_grad()
def sampler_states(
    model: Any,
    input_ids_BQ: Tensor,
    key_mask_BS: Tensor | None,
    cache: KeyValueCache | None = None,
    start: int = 0,
) -> Tensor:
    """Final hidden states [B, Q, H] of columns start, start + 1, ... (sampling/cache.py: StatesModel).

    Rotary positions are the columns' numbers: attention sees only their differences.

    Raises:
        ConfigError: the model's layers or layout cannot do it.
    """
    config = model.config
    is_whole = model.pre_process and model.post_process and config.context_parallel_size == 1
    if model.layer_spec != "local" or config.sequence_parallel or not is_whole:
        raise ConfigError(
            "sampling takes a model of layer_spec local without pipeline, context and sequence "
            "parallelism; load the checkpoint in such a layout."
        )
    mask = None if key_mask_BS is None else key_mask_BS[:, None, None, :]
    with _passing_on(model, cache, start):
        hidden_QBH = model(input_ids_BQ, None, mask)
    return hidden_QBH.transpose(0, 1)


@torch.no_grad()
def sampler_logits(model: Any, states_NH: Tensor) -> Tensor:
    """Logits [N, V] over the real vocabulary, on every rank of the tensor-parallel group."""
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    is_tied = model.share_embeddings_and_output_weights
    weight = model.shared_embedding_or_output_weight() if is_tied else model.output_layer.weight
    logits = torch.nn.functional.linear(states_NH, weight)
    logits = gather_from_tensor_model_parallel_region(logits, group=model.pg_collection.tp)
    return logits[:, : model.real_vocab_size]


@contextlib.contextmanager
def _passing_on(model: Any, cache: KeyValueCache | None, start: int) -> Iterator[None]:
    """Within: the model returns states, its positions begin at ``start``, its attention uses the cache."""
    attentions = [m for m in model.modules() if isinstance(m, SegmentAttention)]
    rotary = model.rotary_pos_emb
    forward = rotary.forward
    for layer, attention in enumerate(attentions):
        attention.kept = None if cache is None else (cache, layer, start)
    model.returns_states = True
    rotary.forward = lambda length, **named: forward(length, **{**named, "offset": start})
    try:
        yield
    finally:
        del rotary.forward
        model.returns_states = False
        for attention in attentions:
            attention.kept = None
