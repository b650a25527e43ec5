"""How a start of a run ended: one small file, written by whoever knows first, read by the next start."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ...files import write_json

END_FILE = "end.json"  # of the run folder


def write_end(run_folder: Path, reason: str, step: int, code: int, message: str) -> bool:
    """Say why this start ended; what another rank said before stays. Never raises.

    Args:
        run_folder: of the run.
        reason: done, signal, time limit, interrupted, hang or error.
        step: finished updates.
        code: the process's exit code.
        message: one sentence.

    Returns:
        Whether it was said now.
    """
    record = _record(reason, step, code, message)
    with contextlib.suppress(OSError), open(run_folder / END_FILE, "x", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
        return True
    return False


def write_refusal(run_folder: Path, code: int, message: str) -> None:
    """Say that the run did not start at all; how its last start ended is kept inside. Never raises."""
    record = {**_record("refused", 0, code, message), "before": end_of_last_start(run_folder)}
    with contextlib.suppress(OSError):
        write_json(run_folder / END_FILE, record)


def _record(reason: str, step: int, code: int, message: str) -> dict[str, Any]:
    return {
        "reason": reason,
        "step": step,
        "exit_code": code,
        "message": message,
        "time": round(time.time(), 3),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def end_of_last_start(run_folder: Path) -> dict[str, Any] | None:
    """What the last start said that was not refused."""
    end = read_end(run_folder)
    return end.get("before") if end is not None and end.get("reason") == "refused" else end


def read_end(run_folder: Path) -> dict[str, Any] | None:
    """What the last start said; None: it is running, or was killed without a word."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads((run_folder / END_FILE).read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None


def forget_end(run_folder: Path) -> None:
    """A new start begins."""
    (run_folder / END_FILE).unlink(missing_ok=True)
