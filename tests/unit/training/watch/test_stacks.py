"""Where threads are, and what is said of many ranks in a few lines."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.training.watch.stacks import Frame, as_text, short_path, stacks, where
from megatron_dream.training.watch.summary import Answer, ranges, summarise

SITE = "/venv/lib/python3.11/site-packages/"
C10D = Frame(f"{SITE}torch/distributed/distributed_c10d.py", 3000, "all_reduce")
WRAPPER = Frame(f"{SITE}torch/distributed/c10d_logger.py", 81, "wrapper")
OURS = Frame("/home/x/repo/megatron_dream/training/metrics.py", 98, "reduce_sums")
LOOP = Frame("/home/x/repo/megatron_dream/training/loop.py", 220, "_one_step")


def main_at(*frames: Frame) -> str:
    return where({threading.main_thread().ident or 0: list(frames)})


def test_a_collective_is_named_with_its_caller() -> None:
    assert (
        main_at(C10D, WRAPPER, OURS, LOOP)
        == "waits in all_reduce, called by reduce_sums (megatron_dream/training/metrics.py:98)"
    )


def test_the_data_loader_is_told_from_other_waits() -> None:
    select = Frame("/usr/lib/python3.11/selectors.py", 415, "select")
    queue = [select] * 6 + [Frame(f"{SITE}torch/utils/data/dataloader.py", 1283, "_try_get_data")]
    reader = Frame("/home/x/repo/megatron_dream/data/loader.py", 235, "__next__")
    assert main_at(*queue, reader, LOOP).startswith(
        "is in the data loader, __next__ (megatron_dream"
    )


def test_anything_else_is_named_with_the_nearest_of_ours() -> None:
    cuda = Frame(f"{SITE}torch/cuda/__init__.py", 1085, "synchronize")
    found = main_at(cuda, LOOP)
    assert found.startswith("is in synchronize (torch/cuda/__init__.py:1085), called by _one_step")
    assert main_at(LOOP) == "is in _one_step (megatron_dream/training/loop.py:220)"
    assert where({}) == "has no Python stack"


def test_all_threads_of_this_process_are_there() -> None:
    is_here, may_go = threading.Event(), threading.Event()

    def waiting_by_itself() -> None:
        is_here.set()
        may_go.wait()

    thread = threading.Thread(target=waiting_by_itself)
    thread.start()
    is_here.wait()
    text = as_text(stacks())
    may_go.set()
    thread.join()
    assert text.startswith("main thread, most recent call first:")
    assert "in waiting_by_itself" in text and "test_all_threads_of_this_process" in text


def test_paths_begin_with_their_package() -> None:
    assert short_path(f"{SITE}torch/cuda/__init__.py") == "torch/cuda/__init__.py"
    assert short_path("/a/megatron_dream/cli.py") == "megatron_dream/cli.py"
    assert short_path("/usr/lib/python3.11/selectors.py") == "python3.11/selectors.py"


@given(st.sets(st.integers(0, 3000), max_size=200))
def test_ranges_say_every_number_and_no_other(numbers: set[int]) -> None:
    found: set[int] = set()
    for part in filter(None, ranges(numbers).split(", ")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == numbers


def answers_of(total: int) -> list[Answer]:
    at = "waits in all_reduce, called by f (a.py:1)"
    return [Answer(n, f"n{n // 8}", 100 + n, "update", 7, 60, at, 1.0) for n in range(total)]


def test_the_one_that_is_elsewhere_comes_first() -> None:
    answers = answers_of(4)
    answers[2] = Answer(2, "n0", 102, "data", 7, 60, "is in the data loader, g (b.py:2)", 1.0)
    lines = summarise(answers, "cause").splitlines()
    assert lines[0] == "HANG: cause"
    assert lines[1] == "  rank 2 (host n0, pid 102) is in the data loader, g (b.py:2) (phase data)"
    assert lines[2].startswith("  3 of 4 ranks (0-1, 3; hosts n0) wait in all_reduce, called by f")


def test_a_thousand_ranks_are_a_few_lines() -> None:
    answers = answers_of(1024)
    for rank in range(8, 16):
        answers[rank] = Answer(rank, "n1", rank, "update", 7, 50.0, None, 61.0)
    answers[1000] = Answer(1000)
    text = summarise(answers, "cause")
    assert "rank 8 (host n1, pid 8) does not answer: last heartbeat 61 s ago" in text
    assert "in all 9 ranks do not answer: 8-15, 1000" in text
    assert "1015 of 1024 ranks (0-7, 16-999, 1001-1023) wait in all_reduce" in text
    assert len(text.splitlines()) < 15


def test_a_rank_that_never_lived_is_said_so() -> None:
    assert "rank 0 (host ?, pid 0) does not answer: it never had a heartbeat" in summarise(
        [Answer(0)], "cause"
    )
