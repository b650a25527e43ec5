"""Hangs, signals, limits and restarts of ``pretrain``, by real processes over gloo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dream import exit_codes
from megatron_dream.checkpoint.metadata import read_metadata, resolve_checkpoint
from megatron_dream.checkpoint.tensors import TensorReader
from megatron_dream.training.status import summarise
from tests.warm import WarmProcess, WarmStarter
from tests.webhook import SECRET, Receiver

RANK = str(Path(__file__).with_name("rank.py"))
PATIENCE = 240.0  # seconds; nothing takes so long unless it is broken
Start = Callable[..., list[WarmProcess]]


def log_of(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def events(run: Path, name: str) -> list[dict[str, Any]]:
    return [record for record in log_of(run) if record["event"] == name]


def wait_for(happened: Callable[[], Any], processes: list[WarmProcess]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        assert all(process.poll() is None for process in processes), "a rank ended before"
        time.sleep(0.02)


def codes(processes: list[WarmProcess]) -> list[int]:
    return [process.wait(PATIENCE) for process in processes]


@pytest.fixture
def start(warm: WarmStarter, tmp_path: Path) -> Iterator[Start]:
    """Begin the ranks of ``pretrain``; what is left of them ends with the test."""
    groups: list[int] = []

    def begin(
        *words: str, world: int = 2, fault: str = "none", **variables: str
    ) -> list[WarmProcess]:
        given = [f"env:{name}={value}" for name, value in variables.items()]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        processes = [
            warm.start(
                RANK, str(rank), str(world), port, fault, *given, "pretrain", *words,
                output=os.devnull, errors=tmp_path / f"errors-{rank}",
            )
            for rank in range(world)
        ]  # fmt: skip
        groups.extend(process.pid for process in processes)
        return processes

    yield begin
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def errors_of(tmp_path: Path, rank: int) -> str:
    return (tmp_path / f"errors-{rank}").read_text()


WATCHED = [
    *("--watch.step_limit_seconds", "12", "--watch.heartbeat_seconds", "0.5"),
    *("--watch.hang_grace_seconds", "20", "--training.train_steps", "400"),
]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_a_rank_that_hangs_ends_all_with_their_stacks(
    config_file: Path, tmp_path: Path, start: Start, receiver: Receiver
) -> None:
    words = ["--config", str(config_file), *WATCHED, "--alerts.webhook_variable", "HOOK"]
    ranks = start(*words, fault="hang:1:9", HOOK=receiver.address, WANDB_API_KEY=SECRET)
    assert codes(ranks) == [exit_codes.HANG] * 2
    run = tmp_path / "run"
    assert [body["kind"] for body in receiver.bodies] == ["hang"]
    assert "rank 1" in receiver.bodies[0]["text"] and receiver.bodies[0]["step"] == 4
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    said = errors_of(tmp_path, 0) + errors_of(tmp_path, 1)
    assert said.count("HANG: ") == 1, "one rank sums up"
    summary = said[said.index("HANG: ") :]
    assert "is in late (system/rank.py" in summary and "phase data)" in summary
    assert "rank 0 (host" in summary and "waits in " in summary
    for rank, function in ((0, "distributed_c10d.py"), (1, "in late")):
        stacks = (run / "stacks" / f"rank-{rank:04d}.txt").read_text()
        assert f"rank {rank} of 2" in stacks and "main thread" in stacks and function in stacks
    assert [fault["kind"] for fault in events(run, "fault")] == ["hang"]
    end = json.loads((run / "end.json").read_text())
    assert (end["reason"], end["exit_code"], end["step"]) == ("hang", exit_codes.HANG, 4)
    assert "rank 1" in summarise(run)["last_end"]["message"]


def test_a_stopped_rank_is_named_by_the_others(
    config_file: Path, tmp_path: Path, start: Start
) -> None:
    ranks = start("--config", str(config_file), *WATCHED, "--watch.hang_grace_seconds", "9")
    run = tmp_path / "run"
    wait_for(lambda: events(run, "step"), ranks)
    os.kill(ranks[1].pid, signal.SIGSTOP)
    assert ranks[0].wait(PATIENCE) == exit_codes.HANG
    summary = errors_of(tmp_path, 0)
    assert f"pid {ranks[1].pid}) does not answer: last heartbeat" in summary
    assert "rank 0 (host" in summary and "waits in " in summary
    assert (run / "stacks" / "rank-0000.txt").stat().st_size > 0
    os.kill(ranks[1].pid, signal.SIGCONT)  # it finds out what happened meanwhile
    assert ranks[1].wait(PATIENCE) in (exit_codes.HANG, exit_codes.FOUND)


def assert_equal_checkpoints(first: Path, second: Path) -> None:
    readers = [TensorReader(resolve_checkpoint(folder)) for folder in (first, second)]
    assert readers[0].names() == readers[1].names()
    for name in readers[0].names():
        assert torch.equal(readers[0].read(name), readers[1].read(name)), name


def test_a_signal_to_one_rank_stops_both_at_the_same_step(
    config_file: Path, tmp_path: Path, start: Start, receiver: Receiver
) -> None:
    """The straight run has a slow rank, which its log names; data and updates are the same."""
    words = ["--config", str(config_file), "--training.train_steps", "12"]
    words += ["--watch.straggler_interval_steps", "4", "--checkpoint.save_interval", "0"]
    words += ["--alerts.webhook_variable", "HOOK"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    folder = "--checkpoint.run_folder"
    hook = {"HOOK": receiver.address}
    assert codes(start(*words, folder, str(straight), fault="slow:1:0.15", **hook)) == [0, 0]
    assert [body["kind"] for body in receiver.bodies] == ["straggler", "end"]
    ranks = start(*words, folder, str(stopped), fault="slow:0:0.15", **hook)
    wait_for(lambda: events(stopped, "step"), ranks)
    os.kill(ranks[1].pid, signal.SIGTERM)
    while ranks[1].poll() is None:  # and again during the save
        with contextlib.suppress(ProcessLookupError):
            os.kill(ranks[1].pid, signal.SIGTERM)
        time.sleep(0.05)
    assert codes(ranks) == [exit_codes.AGAIN] * 2
    step = events(stopped, "stop")[-1]["step"]
    assert 1 <= step < 12 and read_metadata(resolve_checkpoint(stopped)).step == step
    assert {"stop"} == {body["kind"] for body in receiver.bodies[2:]} - {"straggler"}
    assert codes(start(*words, folder, str(stopped), **hook)) == [0, 0]
    assert_equal_checkpoints(straight, stopped)
    slow = events(straight, "straggler")
    assert slow and {one["rank"] for one in slow[0]["ranks"]} == {1}
    assert slow[0]["ranks"][0]["measure"] == "own" and "rank 1 on" in slow[0]["message"]
    starts = [json.loads(line) for line in (stopped / "restarts.jsonl").read_text().splitlines()]
    assert [one["step"] for one in starts] == [0, step]
    assert starts[1]["previous_end"]["reason"] == "signal" and len(starts[1]["hosts"]) == 1
    summary = summarise(stopped)
    assert summary["starts"] == 2 and sum(summary["time_spent"].values()) == pytest.approx(1.0)


def test_workers_and_savers_leave_signals_to_the_run(
    config_file: Path, tmp_path: Path, start: Start
) -> None:
    """Slurm sends TERM to every process of a job: readers and the forked saver are among them."""
    (process,) = start(
        "--config", str(config_file), "--training.train_steps", "4000", "--data.num_workers", "2",
        "--checkpoint.save_interval", "1", "--checkpoint.async_save", "true", world=1,
    )  # fmt: skip
    run = tmp_path / "run"
    wait_for(lambda: len(events(run, "checkpoint")) > 1, [process])
    os.killpg(process.pid, signal.SIGUSR1)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(PATIENCE) == exit_codes.AGAIN
    step = events(run, "stop")[-1]["step"]
    assert read_metadata(resolve_checkpoint(run)).step == step
    assert "Traceback" not in errors_of(tmp_path, 0)


def test_ctrl_c_saves_and_the_time_limit_does(
    config_file: Path, tmp_path: Path, start: Start
) -> None:
    words = ["--config", str(config_file), "--training.train_steps", "100000"]
    words += ["--checkpoint.save_interval", "0", "--logging.interval", "1000000"]
    (process,) = start(*words, "--watch.time_limit_minutes", "0.4", world=1)
    assert process.wait(PATIENCE) == exit_codes.AGAIN
    run = tmp_path / "run"
    stop = events(run, "stop")[-1]
    assert stop["reason"] == "time limit" and stop["step"] > 0
    began = events(run, "start")[0]["began"]
    assert (run / "checkpoints" / "latest").stat().st_mtime < began + 24
    (process,) = start(*words, "--logging.interval", "1", world=1)
    wait_for(lambda: any(one["step"] > stop["step"] for one in events(run, "step")), [process])
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == exit_codes.INTERRUPTED
    last = events(run, "stop")[-1]
    assert (last["reason"], last["step"]) == (
        "interrupted",
        read_metadata(resolve_checkpoint(run)).step,
    )
    assert "Ctrl-C again" in errors_of(tmp_path, 0)


def test_a_run_that_dies_at_the_same_step_is_not_started_for_ever(
    config_file: Path, tmp_path: Path, start: Start, receiver: Receiver
) -> None:
    run, words = tmp_path / "run", ["--config", str(config_file), "--checkpoint.save_interval", "0"]
    words += ["--training.train_steps", "4000"]  # none of them comes to a checkpoint
    for number in range(3):
        (process,) = start(*words, world=1)
        wait_for(lambda number=number: len(events(run, "start")) > number, [process])
        process.kill()
        process.wait()
    hook = ["--alerts.webhook_variable", "HOOK"]
    (process,) = start(*words, *hook, world=1, HOOK=receiver.address)
    assert process.wait(PATIENCE) == exit_codes.BAD_INPUT
    refused = errors_of(tmp_path, 0)
    assert "3 starts in a row began at step 0" in refused and "restarts.jsonl" in refused
    assert refused.count("\n") == 1
    assert [body["kind"] for body in receiver.bodies] == ["failure"]
    end = json.loads((run / "end.json").read_text())
    assert (end["reason"], end["exit_code"], end["before"]) == ("refused", 2, None)
    (process,) = start(*words, "--watch.max_starts_without_progress", "0", world=1)
    restarts = run / "restarts.jsonl"
    wait_for(lambda: len(restarts.read_text().splitlines()) > 3, [process])
    os.kill(process.pid, signal.SIGTERM)  # before the model is built
    assert process.wait(PATIENCE) == exit_codes.AGAIN
    end = json.loads((run / "end.json").read_text())
    assert (end["reason"], end["step"]) == ("signal", 0)
    assert not (run / "checkpoints" / "latest").exists(), "nothing new, nothing saved"
