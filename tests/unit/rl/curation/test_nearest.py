"""Near copies: what blocks find is what comparing everything with everything finds."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from megatron_dream.rl.curation.nearest import near_copies


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def by_brute_force(vectors: NDArray[np.floating], threshold: float) -> list[tuple[int, int]]:
    """One vector after the other against every one that was kept."""
    kept: list[int] = []
    copies = []
    for number, vector in enumerate(vectors.astype(np.float32)):
        near = [k for k in kept if float(vectors[k].astype(np.float32) @ vector) >= threshold]
        if near:
            copies.append((number, near[0]))
        else:
            kept.append(number)
    return copies


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_blocks_of_any_size_find_the_same(count: int, block: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(count, 3)))  # so few: many are near
    found = [(copy, first) for copy, first, _ in near_copies(vectors, 0.9, block)]
    assert found == by_brute_force(vectors, 0.9)


def test_a_copy_of_a_copy_is_compared_with_what_was_kept() -> None:
    angles = np.deg2rad([0, 25, 50, 75])  # each is near its neighbours only: cos 25 is 0.906
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    for block in (1, 2, 3, 4):
        found = list(near_copies(vectors, 0.9, block))
        assert [(copy, first) for copy, first, _ in found] == [(1, 0), (3, 2)]
        assert found[0][2] == pytest.approx(np.cos(angles[1]), abs=1e-6)


def test_half_precision_is_enough() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(300, 384)))
    vectors[100:200] = unit(vectors[:100] + 0.02 * vectors[200:300])  # copies of another wording
    found = [(copy, first) for copy, first, _ in near_copies(vectors.astype(np.float16), 0.85, 64)]
    assert found == [(100 + k, k) for k in range(100)]


def test_memory_is_of_blocks() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(6000, 16))).astype(np.float16)
    tracemalloc.start()
    list(near_copies(vectors, 0.999, 256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20  # all similarities would be 144 MB
