"""What fails on one rank is answered by all of them alike: decisions, saves, the choice of a checkpoint.

Nobody may be left waiting: the pool kills ranks that do not answer, and the test fails.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from fault_jobs import (
    chosen,
    decoupled,
    failing_saves,
    judged,
    killed_writer,
    stale_weights,
    three_checkpoints,
    unnoticed,
)
from layout_jobs import Case
from pool import WorkerPool

from megatron_dream.checkpoint.metadata import (
    read_metadata,
    resolve_checkpoint,
    verify_files,
    write_metadata,
)

WORDS = {
    "shard": "rank 1: OSError: [Errno 27]",
    "common": "rank 0: OSError: [Errno 27]",
    "metadata": "rank 0: OSError: [Errno 28]",
    "config": "rank 0: OSError: [Errno 28]",
    "publish": "rank 0: OSError: [Errno 28]",
    "folder": "rank 0: OSError: [Errno 28]",
    "hang": "not finished after 1 seconds",
}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_that_fails_on_one_rank_is_given_up_on_all(
    pool: WorkerPool, tmp_path: Path, asynchronous: bool
) -> None:
    hows = list(WORDS) if not asynchronous else ["shard", "metadata", "hang"]
    first, second = pool.run(
        failing_saves, 2, folder=str(tmp_path), hows=hows, asynchronous=asynchronous
    )
    for how in hows:
        sentence, listed, seconds = first[how]
        assert WORDS[how] in sentence, how
        assert second[how][0] == sentence
        assert listed == ["latest", "step_00000001"], how  # the temporary folder is gone
        assert seconds < 15, how  # the thread that hangs is left behind
    folder = resolve_checkpoint(tmp_path)
    assert folder.name == "step_00000099"
    assert verify_files(folder, read_metadata(folder)) is None


def test_a_writer_that_is_killed(pool: WorkerPool, tmp_path: Path) -> None:
    first, second = pool.run(killed_writer, 2, folder=str(tmp_path))
    assert first == second and "rank 1: the process that writes" in first
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "values, action, numbers",
    [
        ([(2.0, 1.0), (2.0, 1.0)], "APPLY", [2.0, 1.0]),
        ([(2.0, 1.0), (2.0, math.nan)], "SKIP", [2.0, None]),
        ([(math.inf, 1.0), (2.0, 1.0)], "SKIP", [None, 1.0]),
        ([(2.0, 1.0 + 2**-52), (2.0, 1.0)], "APPLY", [2.0, 1.0 + 2**-52]),
    ],
)
def test_one_decision(pool: WorkerPool, values: Any, action: str, numbers: Any) -> None:
    first, second = pool.run(judged, 2, values=values)
    assert first == second
    assert first[0].action.name == action and first[1] == numbers


@pytest.fixture(scope="module")
def saved(pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    pool.run(three_checkpoints, 2, folder=str(folder))
    return folder


def shard(folder: Path, step: int) -> Path:
    return max((folder / f"step_{step:08d}").glob("*.distcp"), key=lambda path: path.stat().st_size)


def test_which_checkpoint_a_run_goes_on_from(pool: WorkerPool, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"

    def choice(**arguments: Any) -> Any:
        first, second = pool.run(chosen, 2, folder=str(folder), **arguments)
        assert first == second
        return first

    assert choice() is None  # no folder at all: a new run
    shutil.copytree(saved, folder)
    assert choice() == ("step_00000003", [], None)
    (folder / "latest").write_text("step_00000002\n")  # set back by hand
    assert choice()[0] == "step_00000002"
    for content in ("", "../elsewhere", "step_00000009\n", "\0"):
        (folder / "latest").write_text(content)
        assert choice()[0] == "step_00000003", content
    (folder / "latest").unlink()
    assert choice()[0] == "step_00000003"

    data = bytearray(shard(folder, 3).read_bytes())
    data[len(data) // 2] ^= 1
    shard(folder, 3).write_bytes(bytes(data))
    name, passed_over, sentence = choice()
    assert (name, passed_over) == ("step_00000002", ["step_00000003"])
    assert "checksum differs" in sentence and "goes on from step_00000002" in sentence
    marker = folder / "step_00000002" / "megatron_dream.json"
    marker.write_text(marker.read_text()[:-20])
    assert choice(tidies=True)[:2] == ("step_00000001", ["step_00000003", "step_00000002"])
    listed = sorted(path.name for path in folder.iterdir())
    assert listed == ["latest", "step_00000001", "step_00000002.bad", "step_00000003.bad"]
    assert (folder / "latest").read_text() == "step_00000001\n"
    assert choice() == ("step_00000001", [], None)

    only = folder / "step_00000001"
    metadata = read_metadata(only)
    del metadata.files[".metadata"]["sha256"]
    write_metadata(only, metadata)
    sentence = choice()
    assert "no checkpoint that can be used" in sentence and "remove the folder" in sentence
    only.rename(tmp_path / "elsewhere")  # where there was a run none is begun anew unasked
    assert "latest names step_00000001, which is not there" in choice()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_that_are_gathered_late_are_saved_as_they_are(
    pool: WorkerPool, tmp_path: Path, precision: str
) -> None:
    """With overlap_param_gather a rank has new weights of its own shard alone until the next pass."""
    gathers = {"overlap_grad_reduce": True, "overlap_param_gather": True, "bucket_size": 4000}
    case = Case(parallel=gathers, steps=10, training={"precision": precision})
    assert pool.run(stale_weights, 2, case=case, folder=str(tmp_path)) == [[], []]


@pytest.mark.parametrize(
    "layout",
    [{"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}, {}],
    ids=["TP2", "PP2", "DP2"],
)
@pytest.mark.parametrize("distributed", [True, False])
def test_a_nan_on_one_rank_alone_is_noticed(
    pool: WorkerPool, layout: dict[str, int], distributed: bool
) -> None:
    """In any gradient, those too that the norm counts on another rank: norms under TP, a tied table."""
    if not layout and distributed:
        layout = {"num_distributed_optimizer_instances": 2}
    case = Case(
        parallel={**layout, "use_distributed_optimizer": distributed},
        model={"tie_word_embeddings": True, "num_layers": 2},
    )
    assert pool.run(unnoticed, 2, case=case) == [[], []]


def test_gradients_beside_the_ordinary_ones_are_clipped(pool: WorkerPool) -> None:
    """What a precision-aware optimizer applies; the optimizer itself needs a GPU."""
    (found,) = pool.run(decoupled, 1)
    assert (found["norm"], found["is_applied"]) == (6.0, True)
    assert found["clipped"] == [pytest.approx([0.5] * 4, rel=1e-5)] * 2
    assert found["beside"] == [[7.0] * 4] * 2 and math.isnan(found["bad"])
