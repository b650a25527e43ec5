"""What the sampler asks of a megatron-core model: hidden states of some columns, logits of some states.

Keys reach the core attention after their rotation, so that it can write them into the sampler's cache
and read all that are there. Tensor and pipeline parallelism: every rank gets the same states and
logits, and so chooses the same tokens; under PP a pass goes from stage to stage, and there is no cache.
Sequence and context parallelism are not served.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError
from ..sampling.cache import KeyValueCache
from ..sampling.graphs import StaticCache
from ..sampling.kernels import linear
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
    is_split = config.sequence_parallel or config.context_parallel_size > 1
    if model.layer_spec != "local" or is_split or config.virtual_pipeline_model_parallel_size:
        raise ConfigError(
            "sampling takes a model of layer_spec local without context, sequence and virtual pipeline "
            "parallelism; load the checkpoint in such a layout."
        )
    if cache is not None and model.pg_collection.pp.size() > 1:
        raise ConfigError(
            "caches are not served under pipeline parallelism: leave cache out, or load the checkpoint "
            "with pipeline_model_parallel_size 1."
        )
    mask = None if key_mask_BS is None else key_mask_BS[:, None, None, :]
    with _passing_on(model, cache, start):
        hidden_QBH = _through_stages(model, input_ids_BQ, mask)
    return hidden_QBH.transpose(0, 1)


def _through_stages(model: Any, input_ids_BQ: Tensor, mask: Tensor | None) -> Tensor:
    """The last stage's hidden states [Q, B, H], on all stages."""
    stages = model.pg_collection.pp
    if stages.size() == 1:
        hidden_QBH: Tensor = model(input_ids_BQ, None, mask)
        return hidden_QBH
    shape = (*input_ids_BQ.t().shape, model.config.hidden_size)
    room_QBH = torch.empty(shape, dtype=model.config.params_dtype, device=input_ids_BQ.device)
    if not model.pre_process:
        dist.recv(room_QBH, group=stages, group_src=stages.rank() - 1)
        model.set_input_tensor(room_QBH)
    hidden_QBH = model(input_ids_BQ, None, mask).contiguous()
    if not model.post_process:
        dist.send(hidden_QBH, group=stages, group_dst=stages.rank() + 1)
    dist.broadcast(hidden_QBH, group=stages, group_src=stages.size() - 1)
    return hidden_QBH


@torch.no_grad()
def sampler_logits(model: Any, states_NH: Tensor) -> Tensor:
    """Logits [N, V] over the real vocabulary, on every rank of the model-parallel group."""
    stages = model.pg_collection.pp
    if model.post_process:
        logits_NV = _last_stage_logits(model, states_NH)
    else:
        logits_NV = states_NH.new_empty((len(states_NH), model.real_vocab_size))
    if stages.size() > 1:
        dist.broadcast(logits_NV, group=stages, group_src=stages.size() - 1)
    return logits_NV


def _last_stage_logits(model: Any, states_NH: Tensor) -> Tensor:
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    is_tied = model.share_embeddings_and_output_weights
    weight = model.shared_embedding_or_output_weight() if is_tied else model.output_layer.weight
    logits = linear(states_NH, weight)
    logits = gather_from_tensor_model_parallel_region(logits, group=model.pg_collection.tp)
    return logits[:, : model.real_vocab_size].contiguous()


def _angles(rotary: Any, columns_Q: Tensor) -> Tensor:
    """What megatron-core's rotary embedding, which takes no tensor, gives for columns: [Q, 1, 1, D]."""
    frequencies = torch.outer(columns_Q.to(rotary.inv_freq.dtype), rotary.inv_freq)
    return torch.cat([frequencies, frequencies], dim=-1)[:, None, None, :]


@contextlib.contextmanager
def _passing_on(model: Any, cache: KeyValueCache | None, start: int) -> Iterator[None]:
    """Within: the model returns states, its positions begin at ``start``, its attention uses the cache."""
    attentions = [m for m in model.modules() if isinstance(m, SegmentAttention)]
    rotary = model.rotary_pos_emb
    forward = rotary.forward
    for layer, attention in enumerate(attentions):
        attention.kept = None if cache is None else (cache, layer, start)
    model.returns_states = True
    columns_Q = cache.columns_Q if isinstance(cache, StaticCache) else None
    if columns_Q is not None:
        rotary.forward = lambda length, **named: _angles(rotary, columns_Q)
    else:
        rotary.forward = lambda length, **named: forward(length, **{**named, "offset": start})
    try:
        yield
    finally:
        del rotary.forward
        model.returns_states = False
        for attention in attentions:
            attention.kept = None
