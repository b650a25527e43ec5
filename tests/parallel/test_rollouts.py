"""A response depends on seed, problem and its number: not on the layout, the batch, or other prompts.

Why layouts must agree: rows are independent, each with a generator of its own; tensor and pipeline ranks get
the same logits. Sums in another order could choose another token where two are equal to the last bits; with
these weights none is.
"""

from __future__ import annotations

from typing import Any

import pytest
from policy_jobs import PolicyCase
from pool import WorkerPool
from rollout_jobs import PROMPTS, rollouts

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "TP2": (2, TP2),
    "PP2": (2, PP2),
    "DP2": (2, {}),
    "TP2xPP2": (4, {**TP2, **PP2}),
    "TP2xDP2": (4, TP2),
}
_SINGLE: dict[tuple[str, str], Any] = {}


def single(pool: WorkerPool, alg: str, cache: str) -> Any:
    if (alg, cache) not in _SINGLE:
        (result,) = pool.run(rollouts, 1, case=PolicyCase(), alg=alg, cache=cache, rows=99)
        _SINGLE[alg, cache] = result
    return _SINGLE[alg, cache]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("alg", "cache"), [("origin", "none"), ("entropy", "prefix")])
def test_every_layout_gives_the_same_tokens(
    pool: WorkerPool, layout: str, alg: str, cache: str
) -> None:
    world_size, parallel = LAYOUTS[layout]
    if "pipeline_model_parallel_size" in parallel:
        cache = "none"  # not served there
    expected = single(pool, alg, cache)
    results = pool.run(
        rollouts, world_size, case=PolicyCase(parallel=parallel), alg=alg, cache=cache, rows=99
    )
    asked = set()
    for result in results:
        for place, tokens in result["tokens"].items():
            assert tokens == expected["tokens"][place], place
            asked.add(place)
        assert result["fingerprint"] == results[0]["fingerprint"] != result["changed"]
        if not parallel:
            assert result["fingerprint"] == expected["fingerprint"]
    assert asked == set(range(len(PROMPTS)))


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_a_response_does_not_depend_on_its_batch(pool: WorkerPool, rows: int) -> None:
    (found,) = pool.run(rollouts, 1, case=PolicyCase(), alg="origin", cache="none", rows=rows)
    assert found["tokens"] == single(pool, "origin", "none")["tokens"]


def test_responses_of_a_prompt_differ(pool: WorkerPool) -> None:
    for tokens in single(pool, "origin", "none")["tokens"].values():
        assert len({tuple(row) for row in tokens}) == 3
