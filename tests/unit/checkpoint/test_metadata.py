"""megatron_dream.json by itself: what is read back, and what is noticed of changes in it."""

import dataclasses
import json

import pytest

from megatron_dream.checkpoint.metadata import (
    FILE_NAME,
    CheckpointMetadata,
    read_metadata,
    write_metadata,
)
from megatron_dream.errors import CheckpointError

METADATA = CheckpointMetadata(
    model={"num_layers": 2},
    step=12,
    consumed_samples=96,
    skipped_ranges=[[16, 24]],
    faults={"losses": [0.1 + 0.2, 1e-310], "in_row": 0},
    layout={"tp": 1},
    trained={"name": "é", "times": (1, 2)},
    files={"a.distcp": {"bytes": 5, "sha256": "0" * 64}},
)


def test_what_is_written_is_read(tmp_path):
    write_metadata(tmp_path, METADATA)
    found = read_metadata(tmp_path)
    assert found.faults == METADATA.faults and found.step == 12
    write_metadata(tmp_path, dataclasses.replace(found, step=13))  # with the old checksum in it
    assert read_metadata(tmp_path).step == 13


def _numbers(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def test_every_changed_digit_is_noticed(tmp_path):
    write_metadata(tmp_path, METADATA)
    path = tmp_path / FILE_NAME
    text = path.read_text(encoding="utf-8")
    digits = [place for place, character in enumerate(text) if character.isdigit()]
    assert len(digits) > 60
    for place in digits:
        changed = str((int(text[place]) + 1) % 10)
        altered = text[:place] + changed + text[place + 1 :]
        if _numbers(altered) == _numbers(text):  # the last digit of a float, which says the same
            continue
        path.write_text(altered, encoding="utf-8")
        with pytest.raises(CheckpointError, match="altered|version|valid JSON|unknown field"):
            read_metadata(tmp_path)


def test_space_and_order_do_not_matter(tmp_path):
    write_metadata(tmp_path, METADATA)
    path = tmp_path / FILE_NAME
    values = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(values.items()))))
    assert read_metadata(tmp_path).consumed_samples == 96


def test_one_without_a_checksum_is_read(tmp_path):
    """Of an earlier tree, or edited by a person on purpose."""
    values = dataclasses.asdict(METADATA)
    del values["checksum"]
    (tmp_path / FILE_NAME).write_text(json.dumps(values))
    assert read_metadata(tmp_path).step == 12
    for name, value in (("step", "12"), ("faults", []), ("skipped_ranges", None)):
        (tmp_path / FILE_NAME).write_text(json.dumps({**values, name: value}))
        with pytest.raises(CheckpointError, match=name):
            read_metadata(tmp_path)
