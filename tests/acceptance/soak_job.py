"""A job of several ranks that faults are put into, and what a launcher and a person would do about it.

A launcher kills what is left some time after the first rank's end, as srun does, and at once what is
stopped when nothing else is left. The supervisor stands where a person stands: it kills a job whose log does
not move for a set time, which the run's own watchdog (``WATCHED``) must have ended before.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dream.exit_codes import HANG
from tests.warm import WarmProcess, WarmStarter

SCRIPT = Path(__file__).with_name("soak_rank.py")
WORLD_SIZE = 4  # TP 2 x DP 2
LAYOUT = ("--parallel.tensor_model_parallel_size", "2")
# The longest that a hang may take: a phase's limit and the grace.
HANG_SECONDS, GRACE_SECONDS = 12.0, 9.0
WATCHED = (
    *("--watch.step_limit_seconds", str(HANG_SECONDS)),
    *("--watch.save_limit_seconds", str(HANG_SECONDS)),
    *("--watch.hang_grace_seconds", str(GRACE_SECONDS), "--watch.heartbeat_seconds", "1"),
)
_TICK = 0.02
_KILL_WAIT = 30.0  # seconds from the first rank's end, as Slurm's KillWait


def events(run: Path) -> list[dict[str, Any]]:
    """Finished lines of a run's log."""
    path = run / "log.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Fault:
    """What is done to a job once its log shows a step.

    Attributes:
        kind: kill, stop, full_disk, corrupt, truncate; nan and burst are in the plan of the ranks.
        step: finished steps.
        rank: it is done to.
    """

    kind: str
    step: int
    rank: int = 0


class Job:
    """One start of a run.

    Args:
        warm: starts its processes.
        run: its folder.
        plan: of the ranks (soak_rank.py).
        words: of ``pretrain``.
        stall_seconds: without a new line in the log, until it is killed.
    """

    def __init__(
        self, warm: WarmStarter, run: Path, plan: Path, words: list[str], stall_seconds: float
    ) -> None:
        self.run, self.stall_seconds = run, stall_seconds
        self.begun = len(events(run))
        self.output = run.parent / f"{run.name}-output"
        self.output.mkdir(parents=True, exist_ok=True)
        port = str(free_port())
        self.processes: list[WarmProcess] = [
            warm.start(
                str(SCRIPT), str(plan), str(rank), str(WORLD_SIZE), port, "--", *words,
                output=os.devnull, errors=self.output / f"rank-{rank}.err",
            )
            for rank in range(WORLD_SIZE)
        ]  # fmt: skip
        self._moved, self._seen = time.monotonic(), self.begun

    def new_events(self) -> list[dict[str, Any]]:
        """Since this start."""
        return events(self.run)[self.begun :]

    def step(self) -> int:
        """The last finished step of this start; -1 before the first."""
        steps = [event["step"] for event in self.new_events() if event["event"] == "step"]
        return steps[-1] if steps else -1

    def is_running(self) -> bool:
        """Whether all ranks still are."""
        return all(process.poll() is None for process in self.processes)

    def is_stalled(self) -> bool:
        """Whether the log has stood still for too long."""
        if (count := len(events(self.run))) != self._seen:
            self._moved, self._seen = time.monotonic(), count
        return time.monotonic() - self._moved > self.stall_seconds

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Until it has happened; False where a rank ended or the job stalled before."""
        while not happened():
            if not self.is_running() or self.is_stalled():
                return happened()
            time.sleep(_TICK)
        return True

    def end(self) -> tuple[str, float]:
        """Wait until all ranks have ended: by whom, and after how long."""
        started = self._moved = time.monotonic()
        first: float | None = None  # when a rank had ended
        while left := [process for process in self.processes if process.poll() is None]:
            now = time.monotonic()
            if first is None and len(left) < len(self.processes):
                first = now
            if self.is_stalled():
                self.kill()
                return "supervisor", time.monotonic() - started
            if first is not None and (now - first > _KILL_WAIT or all(map(_is_stopped, left))):
                self.kill()
            time.sleep(_TICK)
        codes = {process.returncode for process in self.processes}
        return "watchdog" if HANG in codes else "itself", time.monotonic() - started

    def kill(self) -> None:
        """End every rank and what it started."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def said(self) -> str:
        """What all ranks wrote."""
        return "".join(path.read_text() for path in sorted(self.output.glob("rank-*.err")))


def _is_stopped(process: WarmProcess) -> bool:
    """Whether it is in state T, as after SIGSTOP."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Any:
    """A tmpfs of its own at ``folder``; False where mounting is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(ballast: Path) -> None:
    """Take all room of a small disk but a little; again what has become free since."""
    with contextlib.suppress(OSError), open(ballast, "ab") as stream:
        size = os.fstat(stream.fileno()).st_size
        if (free := shutil.disk_usage(ballast.parent).free) > 1 << 17:
            os.posix_fallocate(stream.fileno(), size, free - (1 << 16))


def damage(checkpoints: Path, kind: str, draw: random.Random) -> str:
    """Cut off or change one file of the newest checkpoint; which."""
    newest = max(path for path in checkpoints.glob("step_*") if path.suffix == "")
    files = [path for path in newest.iterdir() if path.stat().st_size]
    if kind == "corrupt":  # the marker has no checksum of its own
        files = [path for path in files if path.name != "megatron_dream.json"]
    victim = draw.choice(sorted(files))
    data = bytearray(victim.read_bytes())
    if kind == "truncate":
        del data[draw.randrange(len(data)) :]
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    victim.write_bytes(bytes(data))
    return f"{newest.name}/{victim.name}"


def complete(checkpoints: Path) -> int:
    """Number of complete checkpoints."""
    return len([p for p in checkpoints.glob("step_*/megatron_dream.json") if p.parent.suffix == ""])


def put(job: Job, fault: Fault, draw: random.Random) -> dict[str, Any]:
    """Do it to a running job and wait for what comes of it.

    Returns:
        The row of the table; ``is_over``: whether the job has ended and is to be started again.
    """
    checkpoints = job.run / "checkpoints"
    row: dict[str, Any] = {"kind": fault.kind, "step": fault.step, "rank": fault.rank}
    victim = job.processes[fault.rank]
    if fault.kind == "full_disk":
        ballast, before = checkpoints / "ballast", len(job.new_events())

        def is_missed() -> bool:
            fill(ballast)  # also while a save is writing
            return any(e.get("kind") == "save_missed" for e in job.new_events()[before:])

        row["is_noticed"] = job.wait_for(is_missed)
        ballast.unlink()
        return {**row, "is_over": not job.is_running()}
    if fault.kind in ("corrupt", "truncate"):
        job.wait_for(lambda: complete(checkpoints) >= 2)
        job.kill()
        return {**row, "damaged": damage(checkpoints, fault.kind, draw), "is_over": True}
    os.kill(victim.pid, signal.SIGSTOP if fault.kind == "stop" else signal.SIGKILL)
    ended_by, seconds = job.end()
    return {**row, "ended_by": ended_by, "seconds": round(seconds, 1), "is_over": True}
