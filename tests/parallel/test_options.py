"""Options that change how a step is computed, on several layouts: bf16, overlap, annealing, crossed.

``test_layouts.py`` takes the variants one at a time; here they meet one another.
"""

from __future__ import annotations

from typing import Any

import pytest
from layout_jobs import (
    Case,
    gradients,
    losses,
    peak_logits_bytes,
    precisions,
    resume,
    save_then_continue,
)
from pool import WorkerPool
from test_layouts import CP2, LAYOUTS, PP2, TOLERANCE, TP2, relative_difference, whole_tensors

BF16 = {"precision": "bf16"}
# bf16 rounds to 8 bits: 2**-9 relative an operation. Losses are means over some 100 tokens of four
# layers' results, and differ by a few such roundings where sums are cut elsewhere.
BF16_TOLERANCE = 1e-2
ANNEAL = {"attention": "anneal", "anneal_steps": 8}


_SINGLE: dict[str, Any] = {}


def single(pool: WorkerPool, job: Any, **fields: Any) -> Any:
    """What one process finds; asked for once."""
    case = Case(parallel={"use_distributed_optimizer": False}, **fields)
    key = f"{job.__name__} {case}"
    if key not in _SINGLE:
        _SINGLE[key] = pool.run(job, 1, case=case)[0]
    return _SINGLE[key]


@pytest.mark.parametrize("name", ["TP2", "PP2", "DP2"])
def test_bf16_losses_stay_near_the_single_process(pool: WorkerPool, name: str) -> None:
    expected = single(pool, losses, training=BF16, steps=4)
    exact = single(pool, losses, steps=4)
    world_size, parallel = LAYOUTS[name]
    found = pool.run(losses, world_size, case=Case(parallel=parallel, training=BF16, steps=4))
    for rank_losses in found:
        assert rank_losses == pytest.approx(expected, rel=BF16_TOLERANCE)
        assert rank_losses == pytest.approx(exact, rel=2 * BF16_TOLERANCE)
    assert expected != exact  # it is bf16 indeed


@pytest.mark.parametrize("distributed", [True, False])
def test_bf16_sums_gradients_and_updates_in_fp32(pool: WorkerPool, distributed: bool) -> None:
    case = Case(parallel={"use_distributed_optimizer": distributed}, training=BF16, steps=2)
    for found in pool.run(precisions, 2, case=case):
        assert found["weights"] == {"torch.bfloat16"}
        assert found["gradients"] == {"torch.float32"}
        assert found["optimizer"] == {"torch.float32"}


@pytest.mark.parametrize(
    ("gathers", "name"),
    [
        (False, "CP2xDP2"),
        (True, "DP2"),
        pytest.param(False, "DP2", marks=pytest.mark.acceptance),
        pytest.param(True, "CP2xDP2", marks=pytest.mark.acceptance),
    ],
)
def test_overlap_changes_nothing(pool: WorkerPool, name: str, gathers: bool) -> None:
    overlap = {"overlap_grad_reduce": True, "overlap_param_gather": gathers, "bucket_size": 4000}
    world_size, parallel = LAYOUTS[name]
    expected = single(pool, losses, steps=5)
    found = pool.run(losses, world_size, case=Case(parallel={**parallel, **overlap}, steps=5))
    for rank_losses in found:
        assert rank_losses == pytest.approx(expected, rel=TOLERANCE)


def check_gradients(pool: WorkerPool, world_size: int, case: Case, expected: Any) -> None:
    results = pool.run(gradients, world_size, case=case)
    assert results[0]["report"]["loss"] == pytest.approx(expected["report"]["loss"], rel=TOLERANCE)
    found = whole_tensors(results, "gradients")
    for tensor, gradient in whole_tensors([expected], "gradients").items():
        assert relative_difference(found[tensor], gradient) < TOLERANCE, tensor


@pytest.mark.parametrize("step", [0, 3, 8])
def test_annealing_on_layouts(pool: WorkerPool, step: int) -> None:
    """Step 0 sees one position to the right, step 3 some, step 8 all."""
    fields: dict[str, Any] = {"diffusion": ANNEAL, "at_step": step, "rows": "padding"}
    expected = single(pool, gradients, **fields)
    for parallel, world_size in ((CP2, 2), ({**TP2, **PP2}, 4)):
        sizes = {**parallel, "use_distributed_optimizer": False}
        check_gradients(pool, world_size, Case(parallel=sizes, **fields), expected)
    if step == 3:
        whole_row = single(pool, gradients, rows="padding")
        assert whole_row["report"]["loss"] != expected["report"]["loss"]


GATHERS = {"overlap_grad_reduce": True, "overlap_param_gather": True, "bucket_size": 4000}


@pytest.mark.parametrize(
    "options",
    [{"diffusion": ANNEAL}, {"training": BF16}, {"parallel": GATHERS, "training": BF16}],
    ids=["anneal", "bf16", "weights gathered late"],
)
def test_resume_is_exact(pool: WorkerPool, tmp_path: Any, options: dict[str, Any]) -> None:
    case = Case(**{"parallel": TP2, "steps": 10, **options})
    expected = pool.run(
        save_then_continue,
        2,
        case=case,
        folder=str(tmp_path),
        before=3,
        after=4,
        optimizer_format="fully_reshardable",
    )
    assert pool.run(resume, 2, case=case, folder=str(tmp_path), after=4) == expected


@pytest.mark.parametrize("layout", ["single", "TP2", "PP2"])
def test_no_tensor_of_logits_is_larger_than_a_chunk(pool: WorkerPool, layout: str) -> None:
    """Forward and backward of the whole model: the largest tensor with a column a token."""
    world_size, parallel = LAYOUTS.get(layout, (1, {}))
    sizes = {**parallel, "use_distributed_optimizer": False}
    found = {}
    for name, fields in {
        "t = 1": {"fixed_t": 1.0},
        "t = 0.5": {"fixed_t": 0.5},
        "t = 0.1": {"fixed_t": 0.1},
        "ar": {"diffusion": {"objective": "ar"}},
    }.items():
        case = Case(parallel=sizes, micro_batch_size=4, **fields)
        found[name] = max(pool.run(peak_logits_bytes, world_size, case=case))
    chunk_rows, fp32 = 8, 4
    columns = 102 // 2 if layout == "TP2" else 101  # TP 2 pads the table to 102
    assert set(found.values()) == {chunk_rows * columns * fp32}, found


# Every pair of two columns' values occurs in some row (checked below).
COLUMNS = {
    "rows": ["documents", "padding", "one_token", "empty"],
    "tied": [False, True],
    "recompute": ["none", "full", "selective"],
    "micro": [1, 2, 4],
    "weight": ["cart", "uniform", "inverse_t", "ar"],
    "denominator": ["masked_tokens", "maskable_tokens"],
    "complementary": [False, True],
}
ROWS = [
    ("documents", True, "full", 2, "inverse_t", "maskable_tokens", True),
    ("padding", False, "selective", 4, "cart", "masked_tokens", True),
    ("one_token", True, "none", 1, "uniform", "masked_tokens", False),
    ("empty", False, "full", 1, "cart", "maskable_tokens", False),
    ("documents", False, "none", 4, "ar", "masked_tokens", False),
    ("padding", True, "full", 1, "ar", "maskable_tokens", False),
    ("one_token", False, "selective", 2, "inverse_t", "masked_tokens", False),
    ("empty", True, "selective", 4, "uniform", "maskable_tokens", True),
    ("documents", True, "selective", 1, "cart", "masked_tokens", True),
    ("padding", False, "none", 2, "uniform", "maskable_tokens", True),
    ("one_token", True, "full", 4, "cart", "maskable_tokens", True),
    ("empty", True, "none", 2, "ar", "masked_tokens", False),
    ("padding", True, "none", 4, "inverse_t", "masked_tokens", True),
    ("one_token", False, "selective", 2, "ar", "maskable_tokens", False),
    ("empty", False, "full", 1, "inverse_t", "masked_tokens", False),
    ("documents", False, "full", 2, "uniform", "masked_tokens", True),
    ("empty", True, "none", 2, "cart", "masked_tokens", True),
    ("one_token", True, "none", 1, "inverse_t", "maskable_tokens", True),
]
CROSSED_LAYOUTS = ["TP2+SP", "interleaved PP2", "TP2xPP2", "CP2xDP2"]
SMALL = [("TP2+SP", 0), ("CP2xDP2", 6), ("TP2xPP2", 7)]


def crossed(row: int) -> dict[str, Any]:
    value = dict(zip(COLUMNS, ROWS[row], strict=True))
    is_ar = value["weight"] == "ar"
    diffusion = {"objective": "ar"} if is_ar else {"weight": value["weight"]}
    diffusion |= {"denominator": value["denominator"], "complementary": value["complementary"]}
    return {
        "rows": value["rows"],
        "model": {"tie_word_embeddings": value["tied"]},
        "training": {"recompute": value["recompute"]},
        "micro_batch_size": value["micro"],
        "diffusion": diffusion,
    }


def check_crossed(pool: WorkerPool, name: str, row: int) -> None:
    fields = crossed(row)
    plain = {**fields, "training": {}, "micro_batch_size": 1}
    expected = single(pool, gradients, **plain)
    world_size, parallel = LAYOUTS[name]
    sizes = {**parallel, "use_distributed_optimizer": False}
    check_gradients(pool, world_size, Case(parallel=sizes, **fields), expected)


def test_every_pair_occurs() -> None:
    names = list(COLUMNS)
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            wanted = {(a, b) for a in COLUMNS[first] for b in COLUMNS[names[j]]}
            missing = wanted - {(row[i], row[j]) for row in ROWS}
            missing -= {("ar", True)}  # a complement of nothing: refused by the configuration
            assert not missing, (first, names[j], missing)


@pytest.mark.parametrize(("name", "row"), SMALL)
def test_crossed_variants(pool: WorkerPool, name: str, row: int) -> None:
    check_crossed(pool, name, row)


@pytest.mark.acceptance
@pytest.mark.parametrize("row", range(len(ROWS)))
@pytest.mark.parametrize("name", CROSSED_LAYOUTS)
def test_crossed_variants_everywhere(pool: WorkerPool, name: str, row: int) -> None:
    check_crossed(pool, name, row)
