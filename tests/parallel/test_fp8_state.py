"""FP8 history goes through a checkpoint; on another layout it begins anew, and that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fp8_jobs import load_history, save_history
from layout_jobs import Case
from pool import WorkerPool

TP2PP2 = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}


@pytest.fixture(scope="module")
def saved(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    folder = str(tmp_path_factory.mktemp("fp8"))
    return folder, pool.run(save_history, 4, case=Case(parallel=TP2PP2), folder=folder)


def test_a_resumed_run_has_the_history(pool: WorkerPool, saved: tuple[str, Any]) -> None:
    folder, expected = saved
    found = pool.run(load_history, 4, case=Case(parallel=TP2PP2), folder=folder)
    for (history, reason), before in zip(found, expected, strict=True):
        assert history == before and reason is None
        assert len(history) == 2 * 4 * 2  # two layers of a stage, four products, two directions
    assert set(found[0][0]).isdisjoint(found[3][0])  # stages have layers of their own


def test_a_longer_history_begins_with_the_saved_one(
    pool: WorkerPool, saved: tuple[str, Any]
) -> None:
    folder, expected = saved
    for length in (2, 6):
        found = pool.run(load_history, 4, case=Case(parallel=TP2PP2), folder=folder, history=length)
        for key, (scale, values) in found[0][0].items():
            assert scale == expected[0][key][0] and len(values) == length
            zeros = [[0.0] * len(values[0])] * length
            assert values == [*expected[0][key][1], *zeros][:length]


def test_another_layout_begins_anew_with_a_warning(
    pool: WorkerPool, saved: tuple[str, Any]
) -> None:
    history, reason = pool.run(load_history, 1, case=Case(), folder=saved[0])[0]
    assert history == {}
    assert reason.startswith("warning: FP8 history begins anew") and "'tp': 2" in reason


def test_the_files_hold_plain_tensors(saved: tuple[str, Any]) -> None:
    from megatron_dream.checkpoint.tensors import TensorReader

    reader = TensorReader(Path(saved[0]) / "step_00000001")
    names = [name for name in reader.names() if name.startswith("fp8.")]
    assert len(names) == 4 * 4 * 2
    assert reader.shape("fp8.layers.0.mlp.linear_fc1.scaling_fwd") == (5, 3)
