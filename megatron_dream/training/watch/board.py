"""Files by which ranks tell each other that they live, and that one of them hangs.

A folder ``watch`` in the run folder, made for 1,024 ranks on a parallel file system:

- ``rank-NNNN``: a rank's heartbeat, one record of fixed size that it writes over in place, through a
  descriptor that stays open: no file is made, renamed or removed while the run goes on, the metadata
  server is not asked. Nobody reads it until something is wrong (or a person asks for the status).
- ``hang``: one small file that every rank opens as often as it writes. Opening is what makes NFS look
  again at a file that exists, while it may remember for a minute that one does not; so the file is there
  from the start, and says nothing until somebody writes into it.
- ``hang.LAUNCH``: made by the rank that notices first (exclusive creation knows one winner only).

Files and not the TCP store: the store lives in rank 0, which may be the rank that is stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ...files import atomic_write

FOLDER = "watch"
RECORD_BYTES = 1024
_MOST_WRITES = 100.0  # a second, of all ranks together


def interval(seconds: float, world_size: int) -> float:
    """Seconds between a rank's heartbeats: as asked for, or so many that all make 100 a second at most."""
    return max(seconds, world_size / _MOST_WRITES)


class Board:
    """This rank's view of the folder.

    Args:
        run_folder: of the run.
        rank: of this process.
        launch: a word that is the same on all ranks of this start, and of no other start.
    """

    def __init__(self, run_folder: Path, rank: int, launch: str) -> None:
        self.folder, self.rank, self.launch = run_folder / FOLDER, rank, launch
        self.folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            for old in self.folder.glob("hang.*"):
                if old.name != f"hang.{launch}":  # a quick rank may have noticed already
                    old.unlink(missing_ok=True)
            if (self._read_hang() or {}).get("launch") != launch:
                self._write_hang({})
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(beat_file(self.folder, rank), flags, 0o644)

    def beat(self, record: dict[str, Any], durable: bool = False) -> None:
        """Write this rank's record over its last one; ``durable``: others need to see it now."""
        text = json.dumps({**record, "launch": self.launch})[: RECORD_BYTES - 1]
        os.pwrite(self._descriptor, text.ljust(RECORD_BYTES - 1).encode() + b"\n", 0)
        if durable:
            os.fsync(self._descriptor)

    def beats(self, world_size: int) -> list[dict[str, Any] | None]:
        """Last records of all ranks of this start; None where there is none."""
        found = [read_beat(beat_file(self.folder, rank)) for rank in range(world_size)]
        return [one if one and one.get("launch") == self.launch else None for one in found]

    def claim(self, notice: dict[str, Any]) -> bool:
        """Tell all ranks of a hang; False where another was first."""
        path = self.folder / f"hang.{self.launch}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            return False
        self.tell(notice)
        return True

    def tell(self, notice: dict[str, Any]) -> None:
        """Say more of the hang that this rank noticed first."""
        self._write_hang({**notice, "launch": self.launch})

    def notice(self) -> dict[str, Any] | None:
        """What the rank that noticed first says; None while all is well."""
        found = self._read_hang()
        return found if found and found.get("launch") == self.launch else None

    def close(self) -> None:
        """Leave the files to whoever looks."""
        os.close(self._descriptor)

    def _write_hang(self, value: dict[str, Any]) -> None:
        with atomic_write(self.folder / "hang") as stream:
            json.dump(value, stream)

    def _read_hang(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            value = json.loads((self.folder / "hang").read_bytes())
            return value if isinstance(value, dict) else None
        return None


def beat_file(folder: Path, rank: int) -> Path:
    """Where a rank's heartbeat is."""
    return folder / f"rank-{rank:04d}"


def read_beat(path: Path) -> dict[str, Any] | None:
    """A rank's last record; None where there is none, or half of one."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_bytes())
        return value if isinstance(value, dict) else None
    return None


def last_beat(run_folder: Path) -> float | None:
    """Seconds since the youngest heartbeat of a run's ranks; None: there is none."""
    times = [
        float(beat["time"])
        for path in (run_folder / FOLDER).glob("rank-*")
        if (beat := read_beat(path)) and "time" in beat
    ]
    return time.time() - max(times) if times else None
