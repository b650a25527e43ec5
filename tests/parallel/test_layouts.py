"""Loss and gradients do not depend on the layout.

Why they must be equal: L = sum over masked n of w_n CE_n / D, with masks, weights and labels made
per ordinal before any cut, and D an integer of the whole batch. Tensor parallelism splits matrix
products whose partial sums are added; pipelining reorders nothing inside a micro-batch; context
parallelism gives every query all keys; data parallelism and micro-batches split the outer sum. Only
the order of fp32 additions differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layout_jobs import Case, gradients, losses
from pool import WorkerPool

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
CP2 = {"context_parallel_size": 2}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "TP2": (2, TP2),
    "TP2+SP": (2, {**TP2, "sequence_parallel": True}),
    "PP2": (2, PP2),
    "PP4": (4, {"pipeline_model_parallel_size": 4}),
    "interleaved PP2": (2, {**PP2, "virtual_pipeline_model_parallel_size": 2}),
    "CP2": (2, CP2),
    "DP2": (2, {}),
    "TP2xPP2": (4, {**TP2, **PP2}),
    "TP2xCP2": (4, {**TP2, **CP2}),
    "CP2xDP2": (4, CP2),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "cart": {},
    "documents": {"rows": "documents"},
    "padding": {"rows": "padding"},
    "one token": {"rows": "one_token"},
    "empty micro-batches": {"rows": "empty"},
    "tied": {"model": {"tie_word_embeddings": True}},
    "ar": {"diffusion": {"objective": "ar"}},
    "uniform": {"diffusion": {"weight": "uniform"}},
    "inverse_t, maskable": {"diffusion": {"weight": "inverse_t", "denominator": "maskable_tokens"}},
    "dealt weights, no shift": {
        "rows": "documents",
        "diffusion": {"weight": "cart_shuffled", "shift": False},
    },
    "full recomputation": {"training": {"recompute": "full"}},
    "selective recomputation": {"training": {"recompute": "selective"}},
    "head rows in buckets": {"training": {"round_head_rows_to": 6}},
    "answers": {"rows": "answers", "micro_batch_size": 2},
    "answers, cut": {"rows": "answers", "micro_batch_size": 4, "sft": {"truncation": "random"}},
    "answers, PAD apart": {
        "rows": "answers",
        "sft": {"truncation": "off", "pad": "longest", "pad_attended": False, "eos_loss": "mean"},
    },
    "micro-batch 2": {"micro_batch_size": 2},
    "micro-batch 4": {"micro_batch_size": 4},
}
# Each layout meets every variant in the acceptance tier; here each meets one or two that could hurt
# it.
SMALL = {
    "TP2": ["cart", "tied", "inverse_t, maskable", "head rows in buckets"],
    "TP2+SP": ["documents", "selective recomputation", "answers"],
    "PP2": ["documents", "tied", "empty micro-batches", "answers"],
    "PP4": ["padding", "head rows in buckets"],
    "interleaved PP2": ["cart", "answers"],
    "CP2": [
        "padding",
        "ar",
        "inverse_t, maskable",
        "answers, PAD apart",
        "dealt weights, no shift",
    ],
    "DP2": ["one token", "micro-batch 2", "answers, cut"],
    "TP2xPP2": ["tied", "full recomputation"],
    "TP2xCP2": ["documents"],
    "CP2xDP2": ["uniform"],
}
TOLERANCE = 1e-5


def layout_case(name: str, variant: str, **changes: Any) -> tuple[int, Case]:
    world_size, parallel = LAYOUTS[name]
    sharded = {"use_distributed_optimizer": False}
    fields = {**VARIANTS[variant], **changes}
    return world_size, Case(parallel={**parallel, **sharded}, **fields)


def whole_tensors(results: list[dict[str, Any]], key: str) -> dict[str, np.ndarray]:
    """Join the tensor-parallel parts of every tensor that some rank returned."""
    parts: dict[str, dict[int, tuple[int | None, np.ndarray]]] = {}
    for result in results:
        for name, entry in result[key].items():
            parts.setdefault(name, {})[result["tp_rank"]] = entry
    whole = {}
    for name, by_rank in parts.items():
        ordered = [by_rank[rank] for rank in sorted(by_rank)]
        axis = ordered[0][0]
        if axis is None or len(ordered) == 1:
            whole[name] = ordered[0][1]
        elif "linear_fc1" in name:
            halves = [np.split(value, 2) for _, value in ordered]
            whole[name] = np.concatenate([h[0] for h in halves] + [h[1] for h in halves])
        else:
            whole[name] = np.concatenate([value for _, value in ordered], axis=axis)
    return whole


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm; the vocabulary's padding rows are left out."""
    found = found[: expected.shape[0]]
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


_SINGLE: dict[str, Any] = {}


def single_process(pool: WorkerPool, variant: str) -> dict[str, Any]:
    if variant not in _SINGLE:
        fields = {**VARIANTS[variant]}
        fields.pop("training", None)  # recomputation and buckets are compared with none
        fields.pop("micro_batch_size", None)
        case = Case(parallel={"use_distributed_optimizer": False}, **fields)
        result = pool.run(gradients, 1, case=case)
        _SINGLE[variant] = {
            "report": result[0]["report"],
            "weights": whole_tensors(result, "weights"),
            "gradients": whole_tensors(result, "gradients"),
        }
    return _SINGLE[variant]


def check_layout(pool: WorkerPool, name: str, variant: str) -> float:
    """Compare one layout with the single process; returns the largest relative difference."""
    expected = single_process(pool, variant)
    world_size, case = layout_case(name, variant)
    results = pool.run(gradients, world_size, case=case)
    report = results[0]["report"]
    assert report["masked_tokens"] == expected["report"]["masked_tokens"]
    assert report["loss"] == pytest.approx(expected["report"]["loss"], rel=TOLERANCE)
    for name_t in ("bound_per_token", "masked_cross_entropy", "accuracy"):
        assert report[name_t] == pytest.approx(expected["report"][name_t], rel=TOLERANCE)
    weights = whole_tensors(results, "weights")
    found = whole_tensors(results, "gradients")
    tied_copy = {"output_layer.weight"} if "tie_word_embeddings" in str(case.model) else set()
    assert set(found) - tied_copy == set(expected["gradients"])
    worst = 0.0
    for tensor, gradient in expected["gradients"].items():
        np.testing.assert_array_equal(
            weights[tensor][: gradient.shape[0]], expected["weights"][tensor], err_msg=tensor
        )
        difference = relative_difference(found[tensor], gradient)
        assert difference < TOLERANCE, f"{tensor}: {difference}"
        worst = max(worst, difference)
    return worst


@pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name in SMALL for variant in SMALL[name]]
)
def test_gradients_equal_the_single_process(pool: WorkerPool, name: str, variant: str) -> None:
    check_layout(pool, name, variant)


@pytest.mark.acceptance
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_equal_on_every_layout_and_variant(
    pool: WorkerPool, name: str, variant: str
) -> None:
    check_layout(pool, name, variant)


@pytest.mark.parametrize("variant", ["micro-batch 2", "micro-batch 4", "full recomputation"])
def test_one_process_does_not_depend_on_cut_or_recomputation(
    pool: WorkerPool, variant: str
) -> None:
    expected = single_process(pool, variant)
    case = Case(parallel={"use_distributed_optimizer": False}, **VARIANTS[variant])
    found = whole_tensors(pool.run(gradients, 1, case=case), "gradients")
    for tensor, gradient in expected["gradients"].items():
        assert relative_difference(found[tensor], gradient) < TOLERANCE, tensor


@pytest.mark.parametrize("micro_batch_size", [2, 3, 6, 12])
def test_answers_do_not_depend_on_the_micro_batch(pool: WorkerPool, micro_batch_size: int) -> None:
    """Truncation groups are of ordinals; what a micro-batch's width adds to a row is dead."""
    fields: dict[str, Any] = {
        "parallel": {"use_distributed_optimizer": False},
        "rows": "answers",
        "sft": {"eos_as_one": True},
        "global_batch_size": 12,
    }
    if "answers of 12" not in _SINGLE:
        _SINGLE["answers of 12"] = pool.run(gradients, 1, case=Case(**fields))
    expected = _SINGLE["answers of 12"]
    found = pool.run(gradients, 1, case=Case(**fields, micro_batch_size=micro_batch_size))
    assert found[0]["report"]["real_tokens"] == expected[0]["report"]["real_tokens"]
    assert found[0]["report"]["positions"] > expected[0]["report"]["positions"]
    assert found[0]["report"]["loss"] == pytest.approx(expected[0]["report"]["loss"], rel=TOLERANCE)
    whole = whole_tensors(found, "gradients")
    for tensor, gradient in whole_tensors(expected, "gradients").items():
        assert relative_difference(whole[tensor], gradient) < TOLERANCE, tensor


OPTIMIZERS = {
    "adam": {"optimizer": "adam"},
    "sgd": {"optimizer": "sgd", "lr": 0.05},
}


# megatron-core's distributed optimizer knows Adam only; the configuration refuses it with SGD.
@pytest.mark.parametrize(
    ("name", "distributed", "optimizer"),
    [
        ("DP2", True, "adam"),
        ("DP2", False, "adam"),
        ("TP2xPP2", True, "adam"),
        ("CP2xDP2", True, "adam"),
        ("DP2", False, "sgd"),
        ("TP2+SP", False, "sgd"),
    ],
)
def test_losses_of_five_steps_equal_the_single_process(
    pool: WorkerPool, name: str, distributed: bool, optimizer: str
) -> None:
    check_losses(pool, name, distributed, optimizer)


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("distributed", "optimizer"), [(True, "adam"), (False, "adam"), (False, "sgd")]
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_losses_of_five_steps_on_every_layout(
    pool: WorkerPool, name: str, distributed: bool, optimizer: str
) -> None:
    check_losses(pool, name, distributed, optimizer)


def check_losses(pool: WorkerPool, name: str, distributed: bool, optimizer: str) -> None:
    key = f"losses {optimizer}"
    if key not in _SINGLE:
        case = Case(
            parallel={"use_distributed_optimizer": False},
            optimizer=OPTIMIZERS[optimizer],
            steps=5,
        )
        _SINGLE[key] = pool.run(losses, 1, case=case)[0]
    world_size, parallel = LAYOUTS[name]
    case = Case(
        parallel={**parallel, "use_distributed_optimizer": distributed},
        optimizer=OPTIMIZERS[optimizer],
        steps=5,
    )
    found = pool.run(losses, world_size, case=case)
    assert len(set(_SINGLE[key])) == 5  # the model really changes
    for rank_losses in found:
        assert rank_losses == pytest.approx(_SINGLE[key], rel=TOLERANCE)
