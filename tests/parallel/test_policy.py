"""The policy's loss and gradient: equal to plain loops over tokens, on every layout and cut.

Why layouts must agree: every rank knows all groups and so computes the same weights, whose sum with the
tokens' losses is the objective; ranks and micro-batches only split that sum. Old log-probabilities are of the
same rows in the same micro-batches.
"""

from __future__ import annotations

from typing import Any

import pytest
from policy_jobs import PolicyCase, policy
from pool import WorkerPool
from test_layouts import relative_difference, whole_tensors

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "TP2": (2, TP2),
    "PP2": (2, PP2),
    "DP2": (2, {}),
    "TP2xPP2": (4, {**TP2, **PP2}),
    "TP2xDP2": (4, TP2),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "token_mean, 1/t": {"aggregation": "token_mean", "weight": "inverse_t"},
    "sequence_mean, independent": {"aggregation": "sequence_mean", "masks": "independent"},
    "trace": {"masks": "trace", "trace_steps": 3},
    "sequence ratio": {"ratio": "sequence", "clip_low": 0.01, "clip_high": 0.01},
    "temperature, k2": {"temperature": 0.7, "kl_coefficient": 0.1},
}
SMALL = {
    "TP2": ["as published", "trace"],
    "PP2": ["sequence ratio", "sequence_mean, independent"],
    "DP2": ["as published", "sequence ratio"],
    "TP2xPP2": ["temperature, k2"],
    "TP2xDP2": ["token_mean, 1/t"],
}
TOLERANCE = 1e-5
_SINGLE: dict[str, Any] = {}


def single(pool: WorkerPool, variant: str) -> dict[str, Any]:
    if variant not in _SINGLE:
        _SINGLE[variant] = pool.run(policy, 1, case=PolicyCase(rl=VARIANTS[variant]))
    return _SINGLE[variant]


def check(pool: WorkerPool, world_size: int, variant: str, **fields: Any) -> None:
    expected = single(pool, variant)
    results = pool.run(policy, world_size, case=PolicyCase(rl=VARIANTS[variant], **fields))
    for result in results:  # every rank is told
        for update in ("first", "second"):
            for name, value in expected[0][update].items():
                assert result[update][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    found = whole_tensors(results, "gradients")
    for name, gradient in whole_tensors(expected, "gradients").items():
        assert relative_difference(found[name], gradient) < TOLERANCE, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_engine_computes_what_the_specification_says(pool: WorkerPool, variant: str) -> None:
    expected = pool.run(policy, 1, case=PolicyCase(rl=VARIANTS[variant], is_reference=True))
    found = single(pool, variant)
    assert found[0]["second"]["loss"] == pytest.approx(expected[0]["second"]["loss"], abs=1e-6)
    whole = whole_tensors(found, "gradients")
    for name, gradient in whole_tensors(expected, "gradients").items():
        assert relative_difference(whole[name], gradient) < TOLERANCE, name
    # The clip has to act on some tokens and not on others, or this says nothing of it.
    report = found[0]["second"]
    assert 0.0 < report["clipped_low"] + report["clipped_high"] < 0.9


@pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name in SMALL for variant in SMALL[name]]
)
def test_layouts_agree(pool: WorkerPool, name: str, variant: str) -> None:
    world_size, parallel = LAYOUTS[name]
    check(pool, world_size, variant, parallel=parallel)


@pytest.mark.acceptance
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_and_variant_agree(pool: WorkerPool, name: str, variant: str) -> None:
    world_size, parallel = LAYOUTS[name]
    check(pool, world_size, variant, parallel=parallel)


@pytest.mark.parametrize("micro_batch_size", [2, 3, 6, 12])
def test_micro_batches_do_not_matter(pool: WorkerPool, micro_batch_size: int) -> None:
    """Rows of one group have one width; of several, the shorter ones get dead padding."""
    check(pool, 1, "as published", micro_batch_size=micro_batch_size)


@pytest.mark.parametrize("variant", ["as published", "sequence ratio", "temperature, k2"])
def test_old_log_probabilities_are_those_of_the_training_pass(
    pool: WorkerPool, variant: str
) -> None:
    """Before any update every ratio is 1, whether it is computed or taken for granted."""
    case = PolicyCase(rl=VARIANTS[variant], is_compared=True)
    (found,) = pool.run(policy, 1, case=case)
    expected = single(pool, variant)[0]
    assert found["first"]["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert found["first"]["k2"] < 1e-10 and found["first"]["clipped_high"] == 0.0
    assert found["first"]["loss"] == pytest.approx(expected["first"]["loss"], abs=1e-6)
    assert found["second"]["loss"] == pytest.approx(expected["second"]["loss"], abs=1e-5)
