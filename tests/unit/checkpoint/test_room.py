"""Room for the next checkpoint: what may be removed beforehand, and what never is."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from megatron_dream.checkpoint import room
from megatron_dream.checkpoint.metadata import FILE_NAME, LATEST, CheckpointMetadata
from megatron_dream.checkpoint.room import Kept

MB = 1 << 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Checkpoints of 10 MB each on a disk of 50 MB, of which a test fills some."""

    def usage(path):
        used = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
        return SimpleNamespace(free=50 * MB - used)

    monkeypatch.setattr(room.shutil, "disk_usage", usage)
    return tmp_path


def checkpoint(folder, name, size=10 * MB, in_row=0):
    (folder / name).mkdir()
    with open(folder / name / "data", "wb") as stream:
        stream.truncate(size)
    metadata = CheckpointMetadata(
        model={}, files={"data": {"bytes": size}}, faults={"in_row": in_row}
    )
    (folder / name / FILE_NAME).write_text(json.dumps(asdict(metadata)))
    (folder / LATEST).write_text(f"{name}\n")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_nothing_goes_while_there_is_room(folder):
    for step in (1, 2, 3):
        checkpoint(folder, f"step_{step:08d}")
    assert room.make_room(folder, 15 * MB, Kept(1)) is None
    assert len(names(folder)) == 3


def test_what_retention_would_remove_goes_first(folder):
    checkpoint(folder, "step_00000001.bad")
    for step in (2, 3, 4):
        checkpoint(folder, f"step_{step:08d}")
    assert room.make_room(folder, 15 * MB, Kept(2)) is None
    assert names(folder) == [f"step_{step:08d}" for step in (2, 3, 4)]  # only what was needed
    assert room.make_room(folder, 35 * MB, Kept(2)) is None
    assert names(folder) == ["step_00000004"]


def test_the_last_good_one_never_goes(folder):
    for step in (1, 2):
        checkpoint(folder, f"step_{step:08d}", 20 * MB)
    sentence = room.make_room(folder, 40 * MB, Kept(1))
    assert names(folder) == ["step_00000002"]
    assert str(folder) in sentence and "needs 43.8 MB" in sentence and "keep_last" in sentence


def test_what_is_read_or_kept_for_good_does_not_make_room(folder):
    for step in (1, 2, 3, 4):
        checkpoint(folder, f"step_{step:08d}")
    kept = Kept(1, every=2, read=frozenset({"step_00000001"}))
    assert "needs 37.4 MB" in room.make_room(folder, 34 * MB, kept)
    assert names(folder) == [f"step_{step:08d}" for step in (1, 2, 4)]


def test_the_one_that_latest_names_never_goes(folder):
    for step in (1, 2, 3):
        checkpoint(folder, f"step_{step:08d}")
    (folder / LATEST).write_text("step_00000001\n")
    room.make_room(folder, 45 * MB, Kept(1))
    room.remove_old(folder, Kept(1))
    assert names(folder) == ["step_00000001", "step_00000003"]


def test_retention_counts_no_folder_that_was_set_aside(folder):
    for name in ("step_00000001.left", "step_00000002.bad", "step_00000003", "step_00000004"):
        checkpoint(folder, name, MB)
    (folder / "step_00000005").mkdir()  # without a marker
    room.remove_old(folder, Kept(2))
    assert names(folder) == [
        "step_00000002.bad", "step_00000003", "step_00000004", "step_00000005",
    ]  # fmt: skip


@pytest.mark.parametrize("keep_last", [1, 2])
def test_the_last_one_to_go_back_to_stays(folder, keep_last):
    """Stopped again and again while updates are skipped: each stop saves."""
    checkpoint(folder, "step_00000001", MB)
    checkpoint(folder, "step_00000002", MB)
    for step in (3, 4, 5):
        checkpoint(folder, f"step_{step:08d}", MB, in_row=step)
        room.remove_old(folder, Kept(keep_last))
    room.make_room(folder, 90 * MB, Kept(keep_last))
    assert names(folder) == [f"step_{step:08d}" for step in (2, 3, 4, 5)]
    for step in (6, 7):
        checkpoint(folder, f"step_{step:08d}", MB)
        room.remove_old(folder, Kept(keep_last))
    assert names(folder) == [f"step_{step:08d}" for step in range(8 - keep_last, 8)]


@pytest.mark.parametrize("damage", ["cut off", "gone", "marker"])
def test_a_damaged_one_does_not_stand_in_for_a_whole_one(folder, damage):
    for step in (1, 2, 3):
        checkpoint(folder, f"step_{step:08d}", MB)
    broken = folder / "step_00000003"
    if damage == "cut off":
        (broken / "data").write_bytes(b"x")
    elif damage == "gone":
        (broken / "data").unlink()
    else:
        (broken / FILE_NAME).write_text("{")
    room.remove_old(folder, Kept(1))
    room.make_room(folder, 90 * MB, Kept(1))
    assert names(folder) == ["step_00000002", "step_00000003"]


def test_leftovers_of_killed_runs_go(folder):
    checkpoint(folder, "step_00000001")
    for name in (".step_00000002.tmp", ".step_00000001.old", ".step_00000002.tmp.x", "mine"):
        (folder / name).mkdir()
    room.remove_unfinished(folder)
    assert names(folder) == [".step_00000002.tmp.x", "mine", "step_00000001"]
    room.remove_unfinished(folder / "absent")


def test_setting_aside_replaces_what_was_set_aside_before(folder):
    checkpoint(folder, "step_00000001", 5)
    checkpoint(folder, "step_00000001.bad", 7)
    room.set_aside(folder / "step_00000001", "bad")
    assert names(folder) == ["step_00000001.bad"]
    assert (folder / "step_00000001.bad" / "data").stat().st_size == 5
