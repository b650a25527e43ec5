"""Cells on disk: measured once, whole or not at all, by several processes, never read for another's."""

from __future__ import annotations

import fcntl
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.errors import ConfigError, DataError
from megatron_dream.evaluation.sweeps.base import Cell, Kind
from megatron_dream.evaluation.sweeps.store import Shard, Store, cell_key


class Killed(Exception):
    pass


class Counting(Kind):
    """Measures a cell in three steps and dies where it is told to."""

    name = "counting"

    def __init__(self, dies_at=None):
        self.steps, self.dies_at = [], dies_at

    @classmethod
    def parse(cls, fields, where):
        raise NotImplementedError

    def cells(self):
        return [cell(n) for n in range(4)]

    def measure(self, cell, folder):
        for step in range(3):
            part = folder / f"step{step}"
            if part.exists():
                continue
            if (cell.columns["n"], step) == self.dies_at:
                raise Killed
            part.touch()
            self.steps.append((cell.columns["n"], step))
        return [{"value": float(cell.columns["n"]), "low": float("-inf")}]

    def paragraph(self, rows):
        return f"{len(rows)} rows."


def cell(n, **fields):
    fields = {"n": n, **fields}
    return Cell(cell_key("counting", {"n": n}, fields), {"n": n}, fields)


def store(folder, kind):
    return Store(folder, kind, kind.cells())


def test_a_killed_sweep_goes_on_inside_the_cell_and_repeats_nothing(tmp_path):
    dying = Counting(dies_at=(2, 1))
    with pytest.raises(Killed):
        for one in store(tmp_path, dying).cells:
            store(tmp_path, dying).measure(one)
    left = store(tmp_path, dying).missing()
    assert [one.columns["n"] for one in left] == [2, 3]
    after = Counting()
    for one in left:
        store(tmp_path, after).measure(one)
    assert sorted(dying.steps + after.steps) == [(n, s) for n in range(4) for s in range(3)]
    assert store(tmp_path, after).missing() == []
    found = store(tmp_path, after).read(cell(2))
    assert found.rows == [{"n": 2, "value": 2.0, "low": None}]
    assert found.machine["cores"] >= 1 and found.date.startswith("2")


def test_a_changed_setting_is_another_cell_and_leaves_the_old_one(tmp_path):
    kind = Counting()
    store(tmp_path, kind).measure(cell(1))
    changed = Store(tmp_path, kind, [cell(1, canvas=8)])
    assert changed.missing() == changed.cells
    changed.measure(cell(1, canvas=8))
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_a_folder_that_says_something_else_is_refused(tmp_path):
    kind = Counting()
    store(tmp_path, kind).measure(cell(1))
    other = Cell(cell(1).key, {"n": 1}, {"n": 7})
    with pytest.raises(ConfigError, match=r"fields \{'n': 1\}, now \{'n': 7\}.*another --output"):
        store(tmp_path, kind).read(other)


def test_a_damaged_cell_is_told(tmp_path):
    kind = Counting()
    store(tmp_path, kind).measure(cell(1))
    (tmp_path / "cells" / cell(1).key / "rows.json").write_text('{"rows": []}')
    with pytest.raises(DataError, match=r"rows.json is damaged; remove its folder"):
        store(tmp_path, kind).read(cell(1))


def test_two_processes_do_not_measure_one_cell(tmp_path):
    kind = Counting()
    folder = store(tmp_path, kind).path(cell(0))
    folder.mkdir(parents=True)
    with open(folder / "lock", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="being measured by another process"):
            store(tmp_path, kind).measure(cell(0))
    assert kind.steps == []
    store(tmp_path, kind).measure(cell(0))
    store(tmp_path, kind).measure(cell(0))  # it is there meanwhile
    assert len(kind.steps) == 3


def test_cells_that_are_the_same_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="two cells are the same"):
        Store(tmp_path, Counting(), [cell(1), cell(2), cell(1)])


@given(st.integers(0, 40), st.integers(1, 12))
def test_shards_are_a_partition(num_cells, count):
    cells = [cell(n) for n in range(num_cells)]
    parts = [Shard.of(f"{index}/{count}").of_cells(cells) for index in range(1, count + 1)]
    assert sorted(one.columns["n"] for part in parts for one in part) == list(range(num_cells))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "", "1/ 2"])
def test_wrong_shards(text):
    with pytest.raises(ConfigError, match="--shard is .* give I/N"):
        Shard.of(text)


column_values = st.none() | st.text(max_size=90) | st.floats(allow_nan=False) | st.integers()


@given(st.dictionaries(st.text("abc", min_size=1, max_size=2), column_values, max_size=4))
def test_keys_are_safe_names_and_tell_cells_apart(columns):
    key = cell_key("k", columns, {"x": 1})
    assert key and set(key) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-"
    )
    assert key[0] not in ".-" and len(key) <= 80
    others = {cell_key("l", columns, {"x": 1}), cell_key("k", columns, {"x": 2}),
              cell_key("k", {**columns, "z": 1}, {"x": 1})}  # fmt: skip
    assert key not in others and len(others) == 3
    assert key == cell_key("k", json.loads(json.dumps(columns)), {"x": 1})
