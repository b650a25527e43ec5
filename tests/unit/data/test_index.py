"""Indices on disk: the blend's table, checksums and waiting, who may build, further streams."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.checkpoint.metadata import CheckpointMetadata
from megatron_dream.data.blend_table import BlendTable, shares_of, table_size, write_table
from megatron_dream.data.build import MAX_BUILDING_RANKS, build_streams
from megatron_dream.data.cache import CHECKSUMS, await_folder, folder_fault, publish_folder
from megatron_dream.data.order import BlendOrder, blend_arrays
from megatron_dream.errors import CheckpointError, ConfigError, DataError
from megatron_dream.training.identity import check_resume
from tests.unit.data.token_files import FakeTokenizer, random_documents, run_config, write_tokens

TOKENIZER = FakeTokenizer()


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=12),
    size=st.integers(1, 9000),
    data=st.data(),
)
def test_a_table_holds_megatron_cores_order(
    tmp_path_factory: pytest.TempPathFactory, weights: list[float], size: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("table")
    whole = table_size(size, len(weights))
    assert size <= whole
    write_table(folder, shares_of(weights), whole)
    source, index = blend_arrays(weights, whole)
    table = BlendTable(folder)
    assert len(table) == whole and {f.name for f in folder.iterdir()} == {
        "source.npy",
        "counts.npy",
    }
    for ordinal in [0, whole - 1, *data.draw(st.lists(st.integers(0, whole - 1), max_size=40))]:
        assert table[ordinal] == (source[ordinal], index[ordinal])


def test_three_hundred_sources_need_two_bytes(tmp_path: Path) -> None:
    weights = list(np.linspace(1, 2, 300))
    size = table_size(10_000, 300)
    write_table(tmp_path, shares_of(weights), size)
    source, index = blend_arrays(weights, size)
    table = BlendTable(tmp_path)
    assert source.max() == 299
    assert all(table[n] == (source[n], index[n]) for n in range(0, size, 37))


def test_a_longer_table_serves_a_shorter_run_and_a_few_more_samples(tmp_path: Path) -> None:
    weights = [0.7, 0.3]
    BlendOrder(weights, 40_000, tmp_path).build()
    for size in (100, 40_000, 40_100):
        assert BlendOrder(weights, size, tmp_path).is_built
    assert not BlendOrder(weights, 80_000, tmp_path).is_built
    assert not BlendOrder([0.6, 0.4], 100, tmp_path).is_built


def damaged(folder: Path, how: str) -> None:
    if how == "cut":
        (folder / "a.npy").write_bytes(b"12")
    elif how == "altered":
        (folder / "a.npy").write_bytes(b"1235")
    elif how == "gone":
        (folder / "a.npy").unlink()
    else:
        (folder / CHECKSUMS).write_text("{")


@pytest.mark.parametrize("how", ["cut", "altered", "gone", "unreadable"])
def test_a_damaged_index_is_named(tmp_path: Path, how: str) -> None:
    with publish_folder(tmp_path / "index") as folder:
        (folder / "a.npy").write_bytes(b"1234")
    assert folder_fault(tmp_path / "index") is None
    damaged(tmp_path / "index", how)
    assert folder_fault(tmp_path / "index")
    assert (folder_fault(tmp_path / "index", with_content=False) is None) == (how == "altered")
    with pytest.raises(DataError, match="missing or incomplete.*build-index"):
        await_folder(lambda: tmp_path / "index", wait_seconds=0.2)


def test_a_reader_waits_until_the_file_system_shows_the_whole(tmp_path: Path) -> None:
    with publish_folder(tmp_path / "made") as folder:
        (folder / "a.npy").write_bytes(b"1234")

    def appear() -> None:
        late = tmp_path / "late"
        time.sleep(0.2)
        late.mkdir()
        (late / CHECKSUMS).write_bytes((tmp_path / "made" / CHECKSUMS).read_bytes())
        (late / "a.npy").write_bytes(b"12")
        time.sleep(0.3)
        (late / "a.npy").write_bytes(b"1234")

    thread = threading.Thread(target=appear)
    thread.start()
    try:
        assert await_folder(lambda: tmp_path / "late", wait_seconds=20) == tmp_path / "late"
        assert (tmp_path / "late" / "a.npy").read_bytes() == b"1234"
    finally:
        thread.join()


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tokens")
    return [write_tokens(folder / name, random_documents(60, 40)) for name in ("one", "two")]


def test_large_jobs_do_not_build_unless_told(tmp_path: Path, prefixes: list[Path]) -> None:
    config = run_config(tmp_path, *prefixes)
    many = {"train_samples": 100, "num_ranks": MAX_BUILDING_RANKS + 1}
    for is_builder in (True, False):  # all processes say so, and none waits
        with pytest.raises(ConfigError, match=r"build-index.*data\.build_index_in_job"):
            build_streams(config, TOKENIZER, is_builder=is_builder, **many)  # type: ignore[arg-type]
    lines: list[str] = []
    build_streams(config, TOKENIZER, train_samples=100, report=lines.append)  # type: ignore[arg-type]
    assert len(lines) == 3  # two sources and the blend
    build_streams(config, TOKENIZER, **many)  # type: ignore[arg-type]
    config.data.build_index_in_job, config.data.cache_folder = True, str(tmp_path / "other")
    build_streams(config, TOKENIZER, **many)  # type: ignore[arg-type]


def test_another_stream_is_the_same_data_in_another_order(
    tmp_path: Path, prefixes: list[Path]
) -> None:
    config = run_config(tmp_path, prefixes[0])
    first, _, first_hash = build_streams(config, TOKENIZER, train_samples=200)  # type: ignore[arg-type]
    config.data.new_stream = 1
    second, _, second_hash = build_streams(config, TOKENIZER, train_samples=200)  # type: ignore[arg-type]
    assert first_hash != second_hash and second[0].ordinal == 0
    per_epoch = first.rows.sources[0].rows_per_epoch
    rows = [[stream.rows[n][0] for n in range(per_epoch)] for stream in (first, second)]
    assert [r.tobytes() for r in rows[0]] != [r.tobytes() for r in rows[1]]
    # Rows are cut from another order of documents, so their tokens are compared, not they.
    counts = [np.bincount(np.concatenate(part), minlength=200) for part in rows]
    assert np.abs(counts[0] - counts[1]).sum() < 2 * 64


def test_a_resumed_run_may_begin_a_later_stream_and_no_earlier_one() -> None:
    saved = CheckpointMetadata(model={}, index_hash="a", new_stream=1)
    check_resume(saved, replace(saved, new_stream=2, index_hash="b"), "run")
    with pytest.raises(CheckpointError, match="index_hash is a there and b here"):
        check_resume(saved, replace(saved, index_hash="b"), "run")
    with pytest.raises(CheckpointError, match="new_stream is 1 there and 0 here"):
        check_resume(saved, replace(saved, new_stream=0, index_hash="b"), "run")
