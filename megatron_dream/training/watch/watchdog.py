"""A hang ends: stacks of all ranks, a summary, an exit code, within a set time.

Three threads of each rank, so that no wait for a file holds up the clock:

1. the clock looks whether the phase takes longer than it may, and ends the process when an incident's
   time is over. It opens and writes nothing. It re-arms faulthandler's timer, a thread of C that writes
   the stacks and ends the process (with 1: it knows no other code) where Python cannot run at all,
   because a library holds its lock.
2. the heart writes the heartbeat and looks whether another rank asks for stacks.
3. once something is wrong, the reporter writes this rank's stacks; on the rank that noticed first it
   waits for the others' answers, and sums them up.

All of it works while the main thread is inside a collective of gloo or NCCL: those let Python go on.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ... import device, exit_codes
from ...config.schema import WatchConfig
from .board import Board, interval
from .phases import Limits, Phase
from .stacks import as_text, stacks, where
from .summary import Answer, summarise

STACKS = "stacks"  # folder of the run
_TICK = 0.5  # seconds between looks at the clock
_POLL = 0.5  # seconds between looks for answers
_REARM = 5.0  # seconds between settings of faulthandler's timer


class Watchdog:
    """Watches this process; ``enter`` is called by the main thread.

    Args:
        config: limits.
        rank: of this process.
        world_size: of the run.
        board: what ranks tell each other; None: nothing is written, stacks go to the standard error.
        run_folder: for the stacks.
        on_hang: is told the summary before the process ends; may take what is left of the grace.
    """

    def __init__(
        self,
        config: WatchConfig,
        rank: int,
        world_size: int,
        board: Board | None,
        run_folder: Path | None,
        on_hang: Callable[[str, bool], None],
    ) -> None:
        self.rank, self.world_size, self.board = rank, world_size, board
        self.limits, self.on_hang = Limits(config), on_hang
        self._grace = config.hang_grace_seconds
        self._interval = interval(config.heartbeat_seconds, world_size)
        self._host = socket.gethostname()
        self._phase = Phase("start", limit=self.limits.of("start"))
        self._closing = threading.Event()
        self._once = threading.Lock()
        self._end: float | None = None  # monotonic seconds at which the process ends
        self._quiet = threading.Event()
        self._stacks_path = (
            None if run_folder is None else run_folder / STACKS / f"rank-{rank:04d}.txt"
        )
        self._stacks_file = _open_stacks(self._stacks_path)
        self._threads = [
            threading.Thread(target=loop, daemon=True, name=f"watch-{loop.__name__}")
            for loop in (self._clock, self._heart)
        ]
        self._armed = (0.0, 0.0)  # when faulthandler's timer was set, and for what limit
        self._arm_timer()
        for thread in self._threads:
            thread.start()

    def enter(self, name: str, step: int) -> None:
        """The main thread is at something else now."""
        self.limits.took(self._phase.name, self._phase.seconds())
        self._phase = Phase(name, step, self.limits.of(name), self._phase.number + 1)

    def first_step_is_over(self) -> float | None:
        """From now on other limits hold; that of a step's phases, where it had to be raised."""
        return self.limits.first_step_is_over()

    @property
    def phase(self) -> Phase:
        """What the main thread is at."""
        return self._phase

    def close(self) -> None:
        """Stop watching; a hang that was noticed goes on to its end."""
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout=5.0)
        while self._end is not None:  # the reporter ends the process, or else this does
            if time.monotonic() > self._end:
                os._exit(exit_codes.HANG)
            time.sleep(_TICK)
        faulthandler.cancel_dump_traceback_later()
        if self.board is not None:
            with contextlib.suppress(OSError):
                self.board.beat(self._record("ended"))
            self.board.close()
        if self._stacks_path is not None:
            if not os.fstat(self._stacks_file).st_size:
                self._stacks_path.unlink(missing_ok=True)
            os.close(self._stacks_file)

    def _clock(self) -> None:
        while not self._closing.wait(_TICK) or self._end is not None:
            if self._closing.is_set():
                time.sleep(_TICK)
            now = time.monotonic()
            if self._end is None and self._phase.is_over:
                self._respond(None)
            if self._end is not None and now > self._end:
                os._exit(exit_codes.HANG)
            if now - self._armed[0] >= _REARM or self._armed[1] != self._phase.limit:
                self._arm_timer()

    def _arm_timer(self) -> None:
        """Set the timer of C to a moment that only a process whose Python stands still can reach."""
        phase = self._phase
        self._armed = (time.monotonic(), phase.limit)
        if not phase.limit:
            faulthandler.cancel_dump_traceback_later()
            return
        left = max(0.0, phase.limit - phase.seconds()) + self._grace + 2 * _REARM
        faulthandler.dump_traceback_later(left, file=self._stacks_file, exit=True)

    def _heart(self) -> None:
        if self.board is None:
            return
        while True:
            self._quiet.clear()
            with contextlib.suppress(OSError):  # a full disk ends no run by way of a heartbeat
                if self._end is None:
                    self.board.beat(self._record())
            self._quiet.set()
            if (notice := self.board.notice()) is not None:
                self._respond(notice)
            if self._closing.wait(self._interval):
                return

    def _record(self, name: str | None = None) -> dict[str, Any]:
        phase = self._phase
        return {
            "rank": self.rank,
            "number": phase.number,
            "phase": name or phase.name,
            "step": phase.step,
            "seconds": round(phase.seconds(), 1),
            "time": round(time.time(), 1),
            "host": self._host,
            "pid": os.getpid(),
        }

    def _respond(self, notice: dict[str, Any] | None) -> None:
        """Begin to end; ``notice`` is what another rank says, None: this one noticed."""
        with self._once:
            if self._end is not None:
                return
            self._end = time.monotonic() + self._grace
        threading.Thread(target=self._report, args=(notice,), daemon=True).start()

    def _report(self, notice: dict[str, Any] | None) -> None:
        try:
            phase = self._phase
            cause = (
                f"rank {self.rank} (host {self._host}, pid {os.getpid()}) is in phase {phase.name} of "
                f"step {phase.step} for {phase.seconds():.0f} s, limit {phase.limit:g} s"
            )
            found = stacks()
            self._write_stacks(
                cause if notice is None else str(notice.get("cause")), as_text(found)
            )
            if self.board is None:
                self._say(summarise([self._own(where(found))], cause))
                return
            self._quiet.wait(_POLL)  # a heartbeat under way must not write over the answer
            self.board.beat({**self._record(), "where": where(found)[:500]}, durable=True)
            self._write_trace()
            if notice is None and self.board.claim({"cause": cause, "rank": self.rank}):
                self._sum_up(cause)
            else:
                self._wait_for_summary()
        except Exception:  # whatever it is, the process ends as it should
            traceback.print_exc()
        finally:
            os._exit(exit_codes.HANG)

    def _own(self, place: str) -> Answer:
        phase = self._phase
        return Answer(
            self.rank, self._host, os.getpid(), phase.name, phase.step, phase.seconds(), place, 0.0
        )

    def _write_stacks(self, cause: str, text: str) -> None:
        record = self._record()
        title = (
            f"==== {time.strftime('%Y-%m-%dT%H:%M:%S%z')} rank {self.rank} of {self.world_size}, host "
            f"{self._host}, pid {record['pid']}, phase {record['phase']} of step {record['step']} for "
            f"{record['seconds']} s; {cause}\n"
        )
        with contextlib.suppress(OSError):
            os.write(self._stacks_file, (title + text).encode())
            if self._stacks_file != 2:
                os.fsync(self._stacks_file)

    def _write_trace(self) -> None:
        """The last collectives of this rank beside its stacks, where NCCL keeps them."""
        if self._stacks_path is not None and (trace := device.communication_trace()) is not None:
            (self._stacks_path.parent / f"nccl_trace_rank_{self.rank}").write_bytes(trace)

    def _sum_up(self, cause: str) -> None:
        """As the rank that noticed first: gather, say, tell the others that it is said."""
        assert self.board is not None and self._end is not None
        last = self._end - self._grace / 3  # the rest is for telling
        answers = self._answers()
        while time.monotonic() < last and any(one.where is None for one in answers):
            time.sleep(_POLL)
            answers = self._answers()
        text = summarise(answers, cause)
        self._say(f"{text}\n  stacks: {self.board.folder.parent / STACKS}")
        self.on_hang(text, True)
        self.board.tell({"cause": cause, "rank": self.rank, "summary": text})
        if self.world_size > 1:
            time.sleep(2 * _POLL)  # so that the rank that speaks can log it

    def _answers(self) -> list[Answer]:
        assert self.board is not None
        answers = []
        for rank, beat in enumerate(self.board.beats(self.world_size)):
            if beat is None:
                answers.append(Answer(rank))
                continue
            known = {key: beat[key] for key in ("host", "pid", "phase", "step", "seconds")}
            silence = max(0.0, time.time() - beat["time"])
            answers.append(Answer(rank, **known, where=beat.get("where"), silence=silence))
        return answers

    def _wait_for_summary(self) -> None:
        """As any other rank: end when it is said, so that no launcher ends it before."""
        assert self.board is not None and self._end is not None
        while time.monotonic() < self._end - _POLL:
            notice = self.board.notice()
            if notice is not None and "summary" in notice:
                self.on_hang(str(notice["summary"]), False)
                return
            time.sleep(_POLL)

    def _say(self, text: str) -> None:
        """To the end of the job's log."""
        os.write(2, f"\n{text}\n".encode())
        sys.stderr.flush()


def _open_stacks(path: Path | None) -> int:
    """Descriptor of the rank's file, which is written behind what was there; 2 without a file."""
    if path is None:
        return 2
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
