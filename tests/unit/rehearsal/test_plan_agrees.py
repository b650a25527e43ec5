"""The planner's bytes against the rehearsal's, counted on megatron-core's own buffers and tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from megatron_dream.config.layout import resolve_layout
from megatron_dream.config.schema import RunConfig
from megatron_dream.planning.efficiency import DEFAULT
from megatron_dream.planning.hardware import GPUS
from megatron_dream.planning.job import Job
from megatron_dream.planning.memory import stage_memory
from megatron_dream.planning.saving import save_cost
from megatron_dream.rehearsal.shapes import rank_classes
from megatron_dream.rehearsal.world import on_cpu, quiet

TP = "parallel__tensor_model_parallel_size"
PP = "parallel__pipeline_model_parallel_size"
VP = "parallel__virtual_pipeline_model_parallel_size"
CP = "parallel__context_parallel_size"
TIED = {"model__tie_word_embeddings": True}
BUCKETS = {"parallel__overlap_grad_reduce": True, "parallel__bucket_size": 30_000}
SHARDS = {"checkpoint__optimizer_format": "dp_reshardable"}

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "DP8, tied": (8, TIED),
    "DP8, buckets, shards": (8, {**BUCKETS, **SHARDS}),
    "TP4 + SP x DP4, a table of odd rows": (16, {TP: 4, "parallel__sequence_parallel": True}),
    "PP2 x DP4, tied": (8, {PP: 2, **TIED}),
    "PP4 x VP2, tied, buckets": (16, {PP: 4, VP: 2, **TIED, **BUCKETS}),
    "PP3, 2 + 3 + 3": (
        3,
        {PP: 3, "parallel__num_layers_in_first_pipeline_stage": 2, "training__global_batch_size": 6},
    ),
    "PP2 x VP2, 6 + 2, shards": (
        4, {PP: 2, VP: 2, "parallel__num_layers_in_last_pipeline_stage": 2, **SHARDS},
    ),
    "CP2 x TP2 x DP2": (8, {CP: 2, TP: 2}),
    "unsharded, bf16": (4, {"parallel__use_distributed_optimizer": False}),
    "2 instances": (8, {"parallel__num_distributed_optimizer_instances": 2}),
    "one group of keys, no biases": (
        4, {"model__num_query_groups": 1, "model__add_qkv_bias": False},
    ),
    "bf16 gradients": (4, {"parallel__grad_reduce_in_fp32": False}),
    "fp32": (4, {"training__precision": "fp32"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_weights_gradients_optimizer_and_saves(
    make_config: Callable[..., RunConfig], name: str
) -> None:
    world_size, fields = CASES[name]
    config = make_config(**{"model__vocab_size": 1001, "training__eval_interval": 0, **fields})
    layout, job = resolve_layout(config, world_size), Job.of(config, world_size)
    with on_cpu(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classes = rank_classes(config, layout, variable_lengths=False)
    for held in classes:
        parts = stage_memory(job, held.stage)
        assert held.gradient_bytes == parts.gradients
        assert held.optimizer_bytes == pytest.approx(parts.optimizer, rel=0.01)
        # Padding of the buffers, which weights lie in, too.
        assert held.weight_bytes <= parts.weights
        assert held.weight_bytes == pytest.approx(parts.weights, rel=0.01)
    formats = {held.optimizer_format for held in classes}
    cost = save_cost(job, GPUS["H100"], DEFAULT, config.checkpoint.optimizer_format)
    assert formats == {cost.optimizer_format}
    peak = max(held.save.peak for held in classes)
    assert cost.host_bytes_per_rank == pytest.approx(peak, rel=0.02)
