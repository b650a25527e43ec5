"""What ranks tell each other by files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megatron_dream.training.watch.board import (
    RECORD_BYTES,
    Board,
    beat_file,
    interval,
    last_beat,
    read_beat,
)


def test_heartbeats_are_written_in_place(tmp_path: Path) -> None:
    board = Board(tmp_path, 3, "launch")
    path = beat_file(board.folder, 3)
    for number in (9_999_999, 1):  # a shorter record leaves nothing of the longer one
        board.beat({"number": number, "time": 5.0})
        assert read_beat(path) == {"number": number, "time": 5.0, "launch": "launch"}
    inode = path.stat().st_ino
    board.beat({"where": "x" * 5000}, durable=True)
    assert (path.stat().st_size, path.stat().st_ino) == (RECORD_BYTES, inode)
    assert read_beat(path) is None, "half a record is none"
    board.close()


def test_beats_of_another_start_do_not_count(tmp_path: Path) -> None:
    Board(tmp_path, 0, "old").beat({"number": 1, "time": 1.0})
    new = Board(tmp_path, 1, "new")
    new.beat({"number": 2, "time": 2.0})
    assert [beat and beat["number"] for beat in new.beats(3)] == [None, 2, None]
    assert last_beat(tmp_path) is not None and last_beat(tmp_path / "none") is None


def test_one_rank_is_first_and_all_hear_of_it(tmp_path: Path) -> None:
    boards = [Board(tmp_path, rank, "launch") for rank in range(8)]
    assert all(board.notice() is None for board in boards)
    with ThreadPoolExecutor(8) as pool:
        firsts = list(pool.map(lambda board: board.claim({"rank": board.rank}), boards))
    assert sum(firsts) == 1
    first = firsts.index(True)
    assert {board.notice()["rank"] for board in boards} == {first}  # type: ignore[index]
    boards[first].tell({"summary": "text"})
    assert boards[0].notice() == {"summary": "text", "launch": "launch"}


def test_the_next_start_hears_nothing_of_it(tmp_path: Path) -> None:
    Board(tmp_path, 1, "old").claim({"cause": "then"})
    quick = Board(tmp_path, 1, "new")  # before rank 0 has cleaned up
    assert quick.notice() is None
    Board(tmp_path, 0, "new")
    assert quick.claim({"cause": "now"}) and quick.notice() == {"cause": "now", "launch": "new"}
    assert Board(tmp_path, 0, "new").notice() == {"cause": "now", "launch": "new"}


def test_many_ranks_write_seldom() -> None:
    assert interval(10.0, 8) == 10.0
    assert interval(1.0, 1024) == 10.24
