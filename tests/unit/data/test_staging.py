"""Copies of token files on a node's disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from megatron_dream.config.schema import RunConfig, SourceConfig
from megatron_dream.data import staging
from megatron_dream.data.staging import NoRoomError, stage, staged_config, staged_prefix
from megatron_dream.errors import DataError


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Two sources of one name in two folders, and validation data without a sidecar."""
    config = RunConfig()
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        for ending in (".bin", ".idx", ".json")[: 2 if folder == "c" else 3]:
            content = f"{folder}{ending}".encode() * 1000
            (tmp_path / folder / f"x.y{ending}").write_bytes(content)
    config.data.train = [SourceConfig(prefix=f"{tmp_path}/{name}/x.y") for name in "ab"]
    config.data.valid = [SourceConfig(prefix=f"{tmp_path}/c/x.y")]
    return config


def said(config: RunConfig, folder: Path) -> str:
    lines: list[str] = []
    stage(config, folder, report=lines.append)
    return lines[0]


def test_copies_are_their_sources(config: RunConfig, tmp_path: Path) -> None:
    assert "8 of 8 files copied" in said(config, tmp_path / "disk")
    staged = staged_config(config, tmp_path / "disk")
    for before, after in zip(
        config.data.train + config.data.valid, staged.data.train + staged.data.valid, strict=True
    ):
        assert after.name == "x.y"
        for ending in (".bin", ".idx"):
            source, target = Path(before.prefix + ending), Path(after.prefix + ending)
            assert source.read_bytes() == target.read_bytes()
            assert source.stat().st_mtime_ns == target.stat().st_mtime_ns
    assert staged.data.cache_folder == f"{tmp_path}/a/index_cache"
    assert config.data.train[0].prefix == f"{tmp_path}/a/x.y"


def test_parts_of_a_killed_copy_are_removed(config: RunConfig, tmp_path: Path) -> None:
    said(config, tmp_path / "disk")
    target = staged_prefix(f"{tmp_path}/b/x.y", tmp_path / "disk")
    part = target.with_name(f".{target.name}.bin.123456.tmp")
    part.write_bytes(b"half")
    assert "0 of 8 files copied" in said(config, tmp_path / "disk")
    assert not part.exists()


def test_what_is_there_is_used_again(config: RunConfig, tmp_path: Path) -> None:
    said(config, tmp_path / "disk")
    assert "0 of 8 files copied" in said(config, tmp_path / "disk")
    Path(f"{tmp_path}/a/x.y.bin").write_bytes(b"new")
    target = staged_prefix(f"{tmp_path}/b/x.y", tmp_path / "disk")
    os.truncate(f"{target}.idx", 10)
    assert "2 of 8 files copied" in said(config, tmp_path / "disk")
    assert Path(f"{target}.idx").read_bytes() == Path(f"{tmp_path}/b/x.y.idx").read_bytes()


def test_a_copy_that_differs_is_an_error(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_digest", lambda path: "another")
    with pytest.raises(DataError, match="the disk is faulty"):
        said(config, tmp_path / "disk")
    assert not list((tmp_path / "disk").rglob("*.bin"))
    assert not list((tmp_path / "disk").rglob("*.tmp"))


def test_a_full_disk_is_refused_before_anything_is_copied(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 30))
    with pytest.raises(NoRoomError, match="GB free, the data needs"):
        said(config, tmp_path / "disk")
    assert not list((tmp_path / "disk").rglob("*.bin"))


def test_a_missing_source_is_named(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "b" / "x.y.idx").unlink()
    with pytest.raises(DataError, match="b/x.y.idx does not exist"):
        said(config, tmp_path / "disk")
