"""What a rehearsal says of a job is what the job's own ranks hold, write and talk to.

Both come from the same code: the rehearsal runs it on fake groups and tensors, rank by rank, and takes the
other data-parallel ranks' shares by megatron-core's rules. So everything must be equal to the byte; files are
compared by the values in them, without the kilobyte that torch writes before each tensor.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from layout_jobs import Case, run_config
from pool import WorkerPool
from rehearsal_jobs import held_and_saved, peak_of_a_save, refusal_of_megatron

from megatron_dream.checkpoint.tensors import TensorReader
from megatron_dream.config.layout import Layout, resolve_layout
from megatron_dream.errors import LayoutError
from megatron_dream.rehearsal.communicators import communicators
from megatron_dream.rehearsal.files import save_plan
from megatron_dream.rehearsal.shapes import RankClass, rank_classes
from megatron_dream.rehearsal.world import on_cpu

TP, PP = "tensor_model_parallel_size", "pipeline_model_parallel_size"
TIED = {"tie_word_embeddings": True}
CASES: dict[str, tuple[int, Case, str]] = {
    "DP2": (2, Case(model=TIED), "dp_reshardable"),
    "TP2 x DP2": (4, Case(parallel={TP: 2}, training={"precision": "bf16"}), "dp_reshardable"),
    "PP2 x DP2 tied": (4, Case(parallel={PP: 2}, model=TIED), "dp_reshardable"),
    "PP2 x DP2 tied, a gap at a bucket's end": (
        4,
        Case(
            parallel={PP: 2, "overlap_grad_reduce": True, "bucket_size": 5000},
            model={**TIED, "hidden_size": 40},
        ),
        "dp_reshardable",
    ),
    "interleaved": (
        2,
        Case(parallel={PP: 2, "virtual_pipeline_model_parallel_size": 2}, model=TIED),
        "auto",
    ),
    "TP2 x PP2 gathered": (4, Case(parallel={TP: 2, PP: 2}), "fully_reshardable"),
    "DP2 gathered": (2, Case(training={"precision": "bf16"}), "fully_reshardable"),
    "CP2 overlapped": (
        2,
        Case(
            parallel={"context_parallel_size": 2, "overlap_grad_reduce": True, "bucket_size": 5000}
        ),
        "dp_reshardable",
    ),
    "DP2 without shards": (
        2,
        Case(parallel={TP: 1, "use_distributed_optimizer": False}, training={"precision": "bf16"}),
        "auto",
    ),
}


# Shown by others too: shards without buckets by TP2 x DP2, tied stages by the one with a gap, gathering by
# DP2 gathered.
IN_ACCEPTANCE = ("DP2", "PP2 x DP2 tied", "TP2 x PP2 gathered")


def rehearsed(case: Case, world_size: int, optimizer_format: str) -> tuple[Layout, list[RankClass]]:
    config = run_config(case)
    config.checkpoint.optimizer_format = optimizer_format  # type: ignore[assignment]
    layout = resolve_layout(config, world_size)
    with on_cpu():
        return layout, rank_classes(config, layout, variable_lengths=False)


def folded(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    return {re.sub(r"\.layers\.\d+\.", ".layers.*.", name): shape for name, shape in shapes.items()}


def values_by_file(folder: Path) -> dict[str, int]:
    """Bytes of the values in each file, by the checkpoint's own list."""
    reader = TensorReader(folder)
    files = {path.name: 0 for path in folder.glob("*.distcp")}
    for name in reader.names():
        entry = reader._tensors[name]
        for chunk in entry.chunks:
            info = reader._storage[(name, tuple(chunk.offsets))]
            files[info.relative_path] += chunk.sizes.numel() * entry.properties.dtype.itemsize
    return files


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.acceptance) if name in IN_ACCEPTANCE else name
        for name in CASES
    ],
)
def test_a_rehearsal_is_the_job(pool: WorkerPool, tmp_path: Path, name: str) -> None:
    world_size, case, optimizer_format = CASES[name]
    found: list[dict[str, Any]] = pool.run(
        held_and_saved,
        world_size,
        case=case,
        folder=str(tmp_path),
        optimizer_format=optimizer_format,
    )
    layout, classes = rehearsed(case, world_size, optimizer_format)
    by_place = {(held.stage, held.tp_rank): held for held in classes}
    groups = {one.kind: one.members for one in communicators(layout, 8)}
    for rank, real in enumerate(found):
        held = by_place[real["place"]]
        assert rank in held.members and held.members == real["groups"]["DP"]
        assert held.shapes == folded(real["shapes"])
        assert held.gradient_bytes == real["gradients"]
        if (
            rank == held.members[0]
        ):  # a shard's end may be padding, which is not the same everywhere
            assert held.optimizer_bytes == real["optimizer"]
            assert held.save == real["memory"]
        assert held.optimizer_format == real["format"]
        for kind, members in groups.items():
            if kind in real["groups"]:
                assert real["groups"][kind] in members
    assert save_plan(classes).files == values_by_file(tmp_path / "saved")


def test_shards_that_are_all_padding_are_refused_before(pool: WorkerPool) -> None:
    """Three ranks, a bucket for each tensor: a norm's 32 values are padded to 384, all on the first rank."""
    case = Case(
        parallel={"overlap_grad_reduce": True, "bucket_size": 1},
        global_batch_size=6,
    )
    found = pool.run(refusal_of_megatron, 3, case=case)
    assert found[0] == "" and "empty bucket" in found[1] and "empty bucket" in found[2]
    with pytest.raises(
        LayoutError, match="rank 2 of 3 data-parallel ranks gets nothing but padding"
    ):
        rehearsed(case, 3, "dp_reshardable")


@pytest.mark.parametrize("optimizer_format", ["fully_reshardable", "dp_reshardable"])
def test_the_memory_of_a_save_is_foreseen(
    pool: WorkerPool, tmp_path: Path, optimizer_format: str
) -> None:
    """On a CPU, where resident memory can be watched.

    9 million parameters, so that what a save takes stands out. glibc keeps some of what is freed between:
    with four times as many, measured once, 30 bytes a parameter were foreseen and taken.
    """
    model = {"hidden_size": 256, "num_layers": 8, "ffn_hidden_size": 1024, "vocab_size": 2000}
    case = Case(model=model)
    for found in pool.run(
        peak_of_a_save, 2, case=case, folder=str(tmp_path), optimizer_format=optimizer_format
    ):
        assert found["measured"] <= 1.35 * found["foreseen"]
        if (
            optimizer_format == "fully_reshardable"
        ):  # the other foresees clones that a CPU need not make
            assert found["measured"] >= 0.7 * found["foreseen"]
