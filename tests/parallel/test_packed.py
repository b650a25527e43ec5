"""Packed micro-batches (THD) compute what one forward pass for each document computes.

Why they must be equal: a token's logits depend on the tokens of its document alone, whose rotary angles
differ from those of the row by one rotation, which the product of query and key does not see. Weights and
labels were made for each document, and the loss is a sum over masked tokens. Context parallelism cuts every
document zigzag, and gives a query all keys of its document; padding that makes documents divisible by 2 x CP
is seen by nobody and carries no loss. Only the order of fp32 additions differs.
"""

from __future__ import annotations

from typing import Any

import pytest
from layout_jobs import Case, gradients, gradients_by_document
from pool import WorkerPool
from test_layouts import TOLERANCE, relative_difference, whole_tensors

CP2, CP4 = {"context_parallel_size": 2}, {"context_parallel_size": 4}
TP2SP = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
PP2 = {"pipeline_model_parallel_size": 2}
CASES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "CP1 documents": (1, {}, {"rows": "documents", "micro_batch_size": 2}),
    "CP1 dead padding": (1, {}, {"rows": "padding", "micro_batch_size": 4}),
    "CP1 answers": (1, {}, {"rows": "answers", "micro_batch_size": 4}),
    "CP1 ar": (1, {}, {"rows": "documents", "diffusion": {"objective": "ar"}}),
    "CP2 documents": (2, CP2, {"rows": "documents", "micro_batch_size": 2}),
    "CP2 ar": (2, CP2, {"rows": "documents", "diffusion": {"objective": "ar"}}),
    "CP2 answers": (2, CP2, {"rows": "answers", "micro_batch_size": 4}),
    "CP4 documents": (4, CP4, {"rows": "documents"}),
    "CP4 dead padding": (4, CP4, {"rows": "padding", "micro_batch_size": 2}),
    "TP2+SP answers": (2, TP2SP, {"rows": "answers", "micro_batch_size": 2}),
    "PP2xCP2 documents": (4, {**PP2, **CP2}, {"rows": "documents", "micro_batch_size": 2}),
    "full recomputation": (
        2,
        CP2,
        {"rows": "documents", "training": {"recompute": "full"}},
    ),
}
_BY_DOCUMENT: dict[str, Any] = {}


def by_document(pool: WorkerPool, fields: dict[str, Any]) -> dict[str, Any]:
    asked = {k: v for k, v in fields.items() if k in ("rows", "diffusion")}
    key = str(asked)
    if key not in _BY_DOCUMENT:
        _BY_DOCUMENT[key] = pool.run(gradients_by_document, 1, case=Case(**asked))
    return _BY_DOCUMENT[key]


@pytest.mark.parametrize("name", CASES)
def test_packed_rows_equal_one_pass_a_document(pool: WorkerPool, name: str) -> None:
    world_size, layout, fields = CASES[name]
    expected = by_document(pool, fields)
    case = Case(parallel={**layout, "use_distributed_optimizer": False}, packs=True, **fields)
    found = pool.run(gradients, world_size, case=case)
    for figure in ("masked_tokens", "real_tokens"):
        assert found[0]["report"][figure] == expected[0]["report"][figure]
    by_t = [one["report"]["by_t"] for one in (found[0], expected[0])]
    for mine, theirs in zip(*by_t, strict=True):  # a token's time is its row's
        assert mine == pytest.approx(theirs, rel=TOLERANCE)
    for figure in ("loss", "masked_cross_entropy", "accuracy"):
        assert found[0]["report"][figure] == pytest.approx(
            expected[0]["report"][figure], rel=TOLERANCE
        )
    tensors = whole_tensors(found, "gradients")
    for tensor, gradient in whole_tensors(expected, "gradients").items():
        assert relative_difference(tensors[tensor], gradient) < TOLERANCE, tensor
