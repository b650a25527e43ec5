"""Order of a blend and of later epochs: prefix-stable, one to one, never the same."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.data.cache import make_cache_folder, publish_folder
from megatron_dream.data.order import BlendOrder, blend_arrays, epoch_position
from megatron_dream.errors import DataError

BLEND = [0.17, 0.02, 0.05, 0.025, 0.025, 0.005, 0.005, 0.15, 0.40, 0.15]  # SPEC 4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 600), st.integers(0, 2**40), st.integers(0, 9), st.integers(0, 5))
def test_an_epoch_is_a_permutation(size: int, seed: int, source: int, epoch: int) -> None:
    place = {"seed": seed, "source": source, "epoch": epoch}
    found = [epoch_position(i, size, **place) for i in range(size)]
    assert sorted(found) == list(range(size))


def test_epochs_sources_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, source: int, epoch: int) -> tuple[int, ...]:
        place = {"seed": seed, "source": source, "epoch": epoch}
        return tuple(epoch_position(i, 1000, **place) for i in range(1000))

    orders = [order(*key) for key in ((1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 1, 1), (2, 0, 1))]
    assert orders[0] == tuple(range(1000))
    for one in range(5):
        for two in range(one):
            assert np.mean(np.array(orders[one]) == np.array(orders[two])) < 0.01
    moved = np.abs(np.array(orders[1]) - np.arange(1000)).mean()
    assert abs(moved - 1000 / 3) < 40  # mean distance of a uniform permutation


def test_a_large_source_needs_no_table() -> None:
    size = 10**12 + 39
    found = {epoch_position(i, size, seed=1, source=0, epoch=1) for i in range(500)}
    assert len(found) == 500 and all(0 <= i < size for i in found)


def test_blend_is_prefix_stable_and_keeps_its_weights() -> None:
    source, index = blend_arrays(BLEND, 20_000)
    for size in (1, 7, 1000, 19_999):
        shorter = blend_arrays(BLEND, size)
        assert (shorter[0] == source[:size]).all() and (shorter[1] == index[:size]).all()
    counts = np.bincount(source, minlength=10)
    assert np.abs(counts - 20_000 * np.array(BLEND)).max() <= 2
    for number in range(10):  # each source is read in its own order, without gaps
        assert (index[source == number] == np.arange(counts[number])).all()


def test_blend_order_on_disk_equals_that_in_memory(tmp_path: Path) -> None:
    on_disk, in_memory = BlendOrder(BLEND, 500, tmp_path), BlendOrder(BLEND, 500)
    on_disk.build()
    copy = pickle.loads(pickle.dumps(on_disk))
    assert [copy[n] for n in range(500)] == [in_memory[n] for n in range(500)]
    on_disk.build()
    assert len(list(tmp_path.iterdir())) == 1
    for n in (-1, 500):
        with pytest.raises(IndexError, match="500 planned"):
            copy[n]
    assert BlendOrder([3.0], 2**50)[2**49] == (0, 2**49)


@pytest.mark.parametrize(
    "weights", [[], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0] * 32768]
)
def test_impossible_blends_are_refused(weights: list[float]) -> None:
    with pytest.raises(DataError):
        blend_arrays(weights, 4)


def test_a_folder_is_published_once_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "index"
    with pytest.raises(RuntimeError), publish_folder(target) as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with publish_folder(target) as slow:
        with publish_folder(target) as fast:
            (fast / "mark").write_text("fast")
        (slow / "mark").write_text("slow")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    assert (target / "mark").read_text() == "fast"


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="data.cache_folder"):
        make_cache_folder(tmp_path / "file" / "cache")
