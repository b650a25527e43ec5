"""Who started a process, told from variables as torchrun and Slurm 22.05 set them."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream import launcher
from megatron_dream.errors import LayoutError
from megatron_dream.launcher import (
    Launch,
    as_torchrun,
    expand_hosts,
    launched,
    rendezvous,
    tasks_per_node,
)

ALLOCATION = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "16", "SLURM_NODELIST": "n[0-1]"}
STEP = ALLOCATION | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NODELIST": "n[0-1]",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
}


def test_a_task_of_srun() -> None:
    assert launched(STEP) == Launch("srun", 11, 16, 3, 8)


def test_uneven_nodes() -> None:
    uneven = STEP | {"SLURM_STEP_TASKS_PER_NODE": "8,2(x4)", "SLURM_NODEID": "3"}
    assert launched(uneven).local_world_size == 2


def test_torchrun_wins_inside_a_step() -> None:
    inner = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert launched(STEP | inner) == Launch("torchrun", 5, 8, 1, 4)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        ALLOCATION,  # salloc
        ALLOCATION | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # a batch script
        STEP | {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"},  # salloc's interactive step
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"WORLD_SIZE": "8"},
    ],
)
def test_one_process_that_slurm_did_not_start_as_many(environment: dict[str, str]) -> None:
    assert launched(environment) == Launch()


def test_a_terminal_tells_a_shell_from_a_step_that_was_started_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``srun --pty bash``, and ``srun python ...`` typed there: the variable is inherited."""
    interactive = STEP | {"SLURM_PTY_PORT": "39999"}
    for has_terminal, expected in ((True, Launch()), (False, Launch("srun", 11, 16, 3, 8))):
        monkeypatch.setattr(
            launcher, "_has_terminal", lambda has_terminal=has_terminal: has_terminal
        )
        assert launched(interactive) == expected
        assert launched(STEP) == Launch("srun", 11, 16, 3, 8)


def test_a_terminal_is_seen_behind_redirected_streams() -> None:
    """A child in a session of its own has none; with one of its own it has, whatever its input is."""
    code = "from megatron_dream.launcher import _has_terminal; print(_has_terminal())"
    words, files = [sys.executable, "-c", code], {"stdin": subprocess.DEVNULL}
    without = subprocess.run(
        words, **files, start_new_session=True, capture_output=True, text=True, check=True
    )
    assert without.stdout == "False\n"
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    given = subprocess.run(
        words, **files, capture_output=True, text=True, check=True, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(name, os.O_RDWR)),  # a session's first one is its terminal
    )  # fmt: skip
    os.close(master)
    os.close(slave)
    assert given.stdout == "True\n"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK is ''"),
        (STEP | {"SLURM_NODEID": "2"}, "names 2 nodes"),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "8(x"}, "no list of tasks"),
    ],
)
def test_variables_that_say_nothing_are_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(LayoutError, match=re.escape(said)):
        launched(wrong)


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(LayoutError, match="rank 8 of 8"):
        launched({"RANK": "8", "WORLD_SIZE": "8"})


def test_the_rendezvous_follows_from_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words: asked.append(words[0]))
    assert rendezvous(STEP) == ("n0", 14711)
    assert asked == ["n0"]
    assert rendezvous(STEP | {"SLURM_JOB_ID": "399999"}) == ("n0", 29999)  # the highest
    assert rendezvous(STEP | {"MASTER_ADDR": "m", "MASTER_PORT": "7"}) == ("m", 7)
    mixed = "gpu-a[07,09-10],login1"  # as `scontrol show job` writes nodes of several kinds
    assert rendezvous(STEP | {"SLURM_STEP_NODELIST": mixed}) == ("gpu-a07", 14711)
    with pytest.raises(LayoutError, match="MASTER_PORT is 'x'"):
        rendezvous(STEP | {"MASTER_ADDR": "m", "MASTER_PORT": "x"})


def test_a_first_node_without_address_is_named() -> None:
    with pytest.raises(LayoutError, match=r"nowhere\.invalid"):
        rendezvous(STEP | {"SLURM_STEP_NODELIST": "nowhere.invalid"})


def test_what_torchrun_would_have_set() -> None:
    found = as_torchrun(launched(STEP), STEP | {"MASTER_ADDR": "h"})
    again = launched(found)
    assert (again.rank, again.world_size, again.local_rank, again.local_world_size) == (
        11,
        16,
        3,
        8,
    )
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("h", "14711")


def test_hosts() -> None:
    assert expand_hosts("n[08-10,12],login") == ["n08", "n09", "n10", "n12", "login"]
    assert expand_hosts("r[1-2]n[0-1].x") == ["r1n0.x", "r1n1.x", "r2n0.x", "r2n1.x"]


@pytest.mark.parametrize("text", ["", "n[", "n[3-1]", "n[a-b]", "a,,b", "n[1-]", "n 1"])
def test_what_is_no_list_of_hosts(text: str) -> None:
    with pytest.raises(LayoutError):
        expand_hosts(text)


def compress(numbers: list[int], width: int) -> str:
    """Ranges as ``scontrol show hostlist`` makes them."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][-1] + 1:
            pieces[-1].append(number)
        else:
            pieces.append([number])
    return ",".join(
        f"{p[0]:0{width}d}" if len(p) == 1 else f"{p[0]:0{width}d}-{p[-1]:0{width}d}"
        for p in pieces
    )


@given(st.sets(st.integers(0, 999), min_size=1), st.integers(1, 4), st.sampled_from(["n", "gpu-a"]))
def test_ranges_come_back(numbers: set[int], width: int, name: str) -> None:
    ordered = sorted(numbers)
    expected = [f"{name}{n:0{width}d}" for n in ordered]
    assert expand_hosts(f"{name}[{compress(ordered, width)}]") == expected


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(1, 5)), min_size=1, max_size=6))
def test_tasks_per_node(runs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in runs)
    assert tasks_per_node(text) == [count for count, times in runs for _ in range(times)]


def test_ports_stay_below_those_that_linux_hands_out() -> None:
    assert launcher.FIRST_PORT + launcher.NUM_PORTS - 1 < 32_768
