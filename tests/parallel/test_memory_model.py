"""The planner's memory model against real bytes, by category, on real layouts.

Weights, gradient buffers and optimizer are equal to the byte: padding is megatron-core's. Saved
activations are what autograd's hooks see on the way of a whole step, so that the pipeline's micro-batches
in flight count. They may differ by what the model leaves out: token ids, indices of the rows with loss,
the first position of a row, which nothing predicts.
"""

from __future__ import annotations

from typing import Any

import pytest
from layout_jobs import SEQUENCE, Case, run_config
from memory_jobs import measured
from pool import WorkerPool

from megatron_dream.planning.job import Job
from megatron_dream.planning.memory import (
    head_saved_bytes,
    kept_bytes,
    layer_bytes_back,
    stage_memory,
)

TOLERANCE = 0.02
MODEL = {"hidden_size": 64, "ffn_hidden_size": 96}
TP2, PP2 = {"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}
UNSHARDED = {"use_distributed_optimizer": False}


def selective(*modules: str) -> dict[str, Any]:
    return {"recompute": "selective", "recompute_modules": list(modules)}


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {"parallel": UNSHARDED}),
    "two rows": (1, {"micro_batch_size": 2}),
    "tied": (1, {"model": {"tie_word_embeddings": True}}),
    "bf16": (1, {"parallel": UNSHARDED, "training": {"precision": "bf16"}}),
    "core_attn": (1, {"training": selective("core_attn")}),
    "mlp": (1, {"training": selective("mlp")}),
    "layernorm": (1, {"training": selective("layernorm")}),
    "all three": (1, {"training": selective("core_attn", "mlp", "layernorm")}),
    "full": (1, {"training": {"recompute": "full"}}),
    "full, 2 layers a piece": (1, {"training": {"recompute": "full", "recompute_num_layers": 2}}),
    "the first 3 layers": (
        1,
        {"training": {"recompute": "full", "recompute_method": "block", "recompute_num_layers": 3}},
    ),
    "TP2": (2, {"parallel": TP2}),
    "TP2+SP": (2, {"parallel": {**TP2, "sequence_parallel": True}}),
    "TP2+SP, mlp": (
        2,
        {"parallel": {**TP2, "sequence_parallel": True}, "training": selective("mlp")},
    ),
    "PP2": (2, {"parallel": PP2}),
    "PP2, tied": (2, {"parallel": PP2, "model": {"tie_word_embeddings": True}}),
    "PP2, full": (2, {"parallel": PP2, "training": {"recompute": "full"}}),
    "PP2, 3 + 1": (2, {"parallel": {**PP2, "num_layers_in_last_pipeline_stage": 1}}),
    "interleaved PP2": (2, {"parallel": {**PP2, "virtual_pipeline_model_parallel_size": 2}}),
    "CP2": (2, {"parallel": {"context_parallel_size": 2}}),
    "DP2": (2, {}),
    "DP2, bf16": (2, {"training": {"precision": "bf16"}}),
    "DP2, bf16 gradients": (
        2,
        {"parallel": {"grad_reduce_in_fp32": False}, "training": {"precision": "bf16"}},
    ),
    "DP2, buckets": (
        2,
        {"parallel": {"overlap_grad_reduce": True, "bucket_size": 20_000}},
    ),
    "DP4, 2 instances": (4, {"parallel": {"num_distributed_optimizer_instances": 2}}),
}


# The others in the acceptance tier.
SMALL = [
    "one", "two rows", "bf16", "core_attn", "mlp", "all three", "full, 2 layers a piece",
    "the first 3 layers", "TP2", "TP2+SP", "PP2", "PP2, full", "PP2, 3 + 1", "interleaved PP2",
    "DP2, bf16", "DP2, buckets",
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [name if name in SMALL else pytest.param(name, marks=pytest.mark.acceptance) for name in CASES],
)
def test_bytes_of_every_category(pool: WorkerPool, name: str) -> None:
    world_size, fields = CASES[name]
    model = {**MODEL, **fields.get("model", {})}
    case = Case(**{**fields, "model": model}, fixed_t=1.0)
    config = run_config(case)
    config.data.sequence_length = SEQUENCE
    job = Job.of(config, world_size)
    results = pool.run(measured, world_size, case=case)
    for stage in range(job.layout.pp):
        parts = stage_memory(job, stage)
        ranks = [found for found in results if found["stage"] == stage]
        for found in ranks:
            assert found["weights"] == parts.weights
            assert found["gradients"] == parts.gradients
            assert found["saved"] == pytest.approx(saved_bytes(job, stage), rel=TOLERANCE)
        # Ranks share the buffer out in equal parts; the last one's ends in padding.
        assert max(found["optimizer"] for found in ranks) <= parts.optimizer
        assert max(found["optimizer"] for found in ranks) == pytest.approx(
            parts.optimizer, rel=TOLERANCE
        )


def saved_bytes(job: Job, stage: int) -> float:
    """The model's peak of what autograd keeps, by the moments of ``stage_memory``."""
    head = head_saved_bytes(job) if stage == job.layout.pp - 1 else 0.0
    return kept_bytes(job, stage) + max(0.0, head, layer_bytes_back(job, stage))
