"""A checkpoint resumed on another layout goes on with the same losses.

Weights, fp32 copies, moments and step counters are stored by their place in the whole model,
samples and noise by their ordinal; so a resumed run computes the same sums in another order.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from layout_jobs import Case, load_error, resume, save_then_continue
from pool import WorkerPool

from megatron_dream.checkpoint.metadata import describe_file, read_metadata, write_metadata

TP2PP2 = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}
TARGETS: dict[str, tuple[int, dict[str, Any]]] = {
    "DP4": (4, {}),
    "PP4": (4, {"pipeline_model_parallel_size": 4}),
    "single": (1, {}),
    "TP2+SP": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "interleaved PP2": (
        2,
        {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2},
    ),
}
STEPS = 10


@pytest.fixture(scope="module")
def saved(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[float]]:
    """A checkpoint of step 3 at TP2 x PP2, and the losses of the steps after it."""
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    case = Case(parallel=TP2PP2, steps=STEPS, model={"tie_word_embeddings": True})
    losses = pool.run(
        save_then_continue,
        4,
        case=case,
        folder=folder,
        before=3,
        after=3,
        optimizer_format="fully_reshardable",
    )
    return folder, losses[0]


@pytest.mark.parametrize("target", TARGETS)
def test_losses_after_a_change_of_layout(
    pool: WorkerPool, saved: tuple[str, list[float]], target: str
) -> None:
    folder, expected = saved
    world_size, parallel = TARGETS[target]
    case = Case(parallel=parallel, steps=STEPS, model={"tie_word_embeddings": True})
    for found in pool.run(resume, world_size, case=case, folder=folder, after=3):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_dp_reshardable_changes_only_the_data_parallel_size(
    pool: WorkerPool, tmp_path: Path, asynchronous: bool
) -> None:
    case = Case(parallel={"tensor_model_parallel_size": 2}, steps=STEPS)
    expected = pool.run(
        save_then_continue,
        2,
        case=case,
        folder=str(tmp_path),
        before=2,
        after=2,
        optimizer_format="dp_reshardable",
        asynchronous=asynchronous,
    )[0]
    for world_size in (2, 4):
        found = pool.run(resume, world_size, case=case, folder=str(tmp_path), after=2)
        assert found[0] == pytest.approx(expected, rel=1e-5)
    other = Case(parallel={"pipeline_model_parallel_size": 2}, steps=STEPS)
    sentence = pool.run(load_error, 2, case=other, folder=str(tmp_path))[0]
    assert "TP 2 PP 1" in sentence and "megatron-dream reshard" in sentence


OVERLAPPED = {"overlap_grad_reduce": True, "bucket_size": 5000}


def test_shards_load_into_other_buckets(pool: WorkerPool, tmp_path: Path) -> None:
    """Buckets follow overlap, bucket size and, by default, the number of ranks; shards load all the same.

    Tied tables have a bucket of their own on both stages.
    """
    pipeline = {"pipeline_model_parallel_size": 2}
    model = {"tie_word_embeddings": True}
    case = Case(parallel={**pipeline, **OVERLAPPED}, model=model, steps=STEPS)
    expected = pool.run(
        save_then_continue, 4, case=case, folder=str(tmp_path), before=2, after=2,
        optimizer_format="dp_reshardable",
    )[0]  # fmt: skip
    for world_size, changed in ((2, {}), (4, {}), (4, {**OVERLAPPED, "bucket_size": 9000})):
        case = Case(parallel={**pipeline, **changed}, model=model, steps=STEPS)
        found = pool.run(resume, world_size, case=case, folder=str(tmp_path), after=2)
        assert found[0] == pytest.approx(expected, rel=1e-5)
    other = Case(parallel=pipeline, model={**model, "ffn_hidden_size": 64}, steps=STEPS)
    sentence = pool.run(load_error, 2, case=other, folder=str(tmp_path))[0]
    assert "are of another model" in sentence


def test_reshard_makes_it_loadable_elsewhere(pool: WorkerPool, tmp_path: Path) -> None:
    """A run whose gradients were reduced in buckets; the one that reshards has one bucket."""
    from megatron_dream.training.reshard import reshard

    case = Case(parallel={"tensor_model_parallel_size": 2, **OVERLAPPED}, steps=STEPS)
    expected = pool.run(
        save_then_continue,
        4,
        case=case,
        folder=str(tmp_path / "run"),
        before=2,
        after=2,
        optimizer_format="dp_reshardable",
    )[0]
    out = reshard(tmp_path / "run", tmp_path / "out", tp=1, pp=2)
    other = Case(parallel={"pipeline_model_parallel_size": 2}, steps=STEPS)
    found = pool.run(resume, 2, case=other, folder=str(out), after=2)
    assert found[0] == pytest.approx(expected, rel=1e-5)


def _damaged(saved: tuple[str, list[float]], target: Path) -> Path:
    shutil.copytree(saved[0], target)
    return target / "step_00000003"


def test_damage_is_one_sentence(
    pool: WorkerPool, saved: tuple[str, list[float]], tmp_path: Path
) -> None:
    case = Case(steps=STEPS, model={"tie_word_embeddings": True})

    def sentence(folder: Path) -> str:
        return str(pool.run(load_error, 1, case=case, folder=str(folder))[0])

    truncated = _damaged(saved, tmp_path / "truncated")
    shard = next(truncated.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-7])
    assert "half written or altered" in sentence(truncated)

    altered = _damaged(saved, tmp_path / "altered")
    shard = next(altered.glob("*.distcp"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    assert "checksum differs" in sentence(altered)

    missing = _damaged(saved, tmp_path / "missing")
    next(missing.glob("*.distcp")).unlink()
    assert "is missing" in sentence(missing)

    unmarked = _damaged(saved, tmp_path / "unmarked")
    (unmarked / "megatron_dream.json").unlink()
    assert "no complete checkpoint" in sentence(unmarked)
    assert "missing or incomplete" in sentence(tmp_path / "unmarked")

    foreign = _damaged(saved, tmp_path / "foreign")
    (foreign / "extra.bin").write_bytes(b"x")
    assert "does not belong" in sentence(foreign)


def test_a_malicious_checkpoint_runs_nothing(
    pool: WorkerPool, saved: tuple[str, list[float]], tmp_path: Path
) -> None:
    import pickle

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = _damaged(saved, tmp_path / "malicious")
    path = folder / ".metadata"
    path.write_bytes(pickle.dumps(Attack()))
    metadata = read_metadata(folder)
    metadata.files[".metadata"] = describe_file(folder, ".metadata")
    write_metadata(folder, metadata)  # whoever can write one file can write the other
    case = Case(steps=STEPS, model={"tie_word_embeddings": True})
    sentence = pool.run(load_error, 1, case=case, folder=str(folder))[0]
    assert "malicious or foreign" in sentence
    assert not (tmp_path / "ran").exists()
