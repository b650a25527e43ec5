"""Options of large runs change where and when things are computed, never what.

Recomputation runs the same operations on the same inputs a second time: gradients are equal to the bit.
An uneven pipeline puts a layer on another rank: as in test_layouts.py only the order of fp32 additions
differs. Instances of the distributed optimizer add the same gradients in two steps instead of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layout_jobs import Case, gradients, losses, resume, save_then_continue
from pool import WorkerPool
from test_layouts import PP2, TOLERANCE, TP2, relative_difference, whole_tensors

UNSHARDED = {"use_distributed_optimizer": False}
SELECTIVE: dict[str, Any] = {"recompute": "selective"}
RECOMPUTED: dict[str, dict[str, Any]] = {
    "core_attn": {**SELECTIVE, "recompute_modules": ["core_attn"]},
    "mlp": {**SELECTIVE, "recompute_modules": ["mlp"]},
    "layernorm": {**SELECTIVE, "recompute_modules": ["layernorm"]},
    "all three": {**SELECTIVE, "recompute_modules": ["core_attn", "mlp", "layernorm"]},
    "full, 2 layers a piece": {"recompute": "full", "recompute_num_layers": 2},
    "the first 2 layers": {
        "recompute": "full",
        "recompute_method": "block",
        "recompute_num_layers": 2,
    },
}
_SINGLE: dict[str, Any] = {}


def single(pool: WorkerPool, **model: Any) -> dict[str, Any]:
    key = str(model)
    if key not in _SINGLE:
        _SINGLE[key] = pool.run(gradients, 1, case=Case(parallel=UNSHARDED, model=model))[0]
    return _SINGLE[key]


@pytest.mark.parametrize("name", RECOMPUTED)
def test_recomputation_gives_the_same_bits(pool: WorkerPool, name: str) -> None:
    expected = single(pool)
    found = pool.run(gradients, 1, case=Case(parallel=UNSHARDED, training=RECOMPUTED[name]))[0]
    assert found["report"]["loss"] == expected["report"]["loss"]
    for tensor, (_, gradient) in expected["gradients"].items():
        np.testing.assert_array_equal(found["gradients"][tensor][1], gradient, err_msg=tensor)


SPLITS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "3 + 1": (2, {**PP2, "num_layers_in_last_pipeline_stage": 1}, {}),
    "1 + 3": (2, {**PP2, "num_layers_in_first_pipeline_stage": 1}, {}),
    "2 + 1, the head counted": (
        2,
        {**PP2, "account_for_loss_in_pipeline_split": True},
        {"num_layers": 3},
    ),
    "interleaved, embedding and head counted": (
        2,
        {
            **PP2,
            "virtual_pipeline_model_parallel_size": 2,
            "account_for_embedding_in_pipeline_split": True,
            "account_for_loss_in_pipeline_split": True,
        },
        {"num_layers": 6},
    ),
    "TP2 x (1 + 3), tied": (
        4,
        {**TP2, **PP2, "num_layers_in_first_pipeline_stage": 1},
        {"tie_word_embeddings": True},
    ),
}


@pytest.mark.parametrize("name", SPLITS)
def test_an_uneven_pipeline_computes_the_same(pool: WorkerPool, name: str) -> None:
    world_size, parallel, model = SPLITS[name]
    expected = single(pool, **model)
    results = pool.run(
        gradients, world_size, case=Case(parallel={**parallel, **UNSHARDED}, model=model)
    )
    assert results[0]["report"]["loss"] == pytest.approx(expected["report"]["loss"], rel=TOLERANCE)
    found = whole_tensors(results, "gradients")
    assert len(found) >= len(expected["gradients"])
    for tensor, gradient in whole_tensors([expected], "gradients").items():
        assert relative_difference(found[tensor], gradient) < TOLERANCE, tensor


@pytest.mark.parametrize("overlap", [False, True])
def test_instances_of_the_optimizer_change_nothing(pool: WorkerPool, overlap: bool) -> None:
    expected = pool.run(losses, 1, case=Case(parallel=UNSHARDED, steps=4))[0]
    parallel = {"num_distributed_optimizer_instances": 2, "overlap_grad_reduce": overlap}
    for found in pool.run(losses, 4, case=Case(parallel=parallel, steps=4)):
        assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize(
    "optimizer_format",
    ["dp_reshardable", pytest.param("fully_reshardable", marks=pytest.mark.acceptance)],
)
def test_instances_save_and_resume(pool: WorkerPool, tmp_path: Any, optimizer_format: str) -> None:
    case = Case(parallel={"num_distributed_optimizer_instances": 2}, steps=8)
    expected = pool.run(
        save_then_continue,
        4,
        case=case,
        folder=str(tmp_path),
        before=2,
        after=3,
        optimizer_format=optimizer_format,
    )
    assert pool.run(resume, 4, case=case, folder=str(tmp_path), after=3) == expected
