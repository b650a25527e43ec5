"""``megatron-dream status RUN``: how far a run is, read from its log and checkpoints only."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..checkpoint.metadata import LATEST
from ..errors import DataError
from .log import LOG_FILE


def read_log(run_folder: Path | str) -> list[dict[str, Any]]:
    """Records of a run's log; a last line cut off by a crash is left out.

    Raises:
        DataError: there is no log, or a line before the last is broken.
    """
    path = Path(run_folder) / LOG_FILE
    if not path.is_file():
        raise DataError(
            f"{run_folder} is no run folder: {LOG_FILE} is missing; name a run's folder"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise DataError(f"{path}, line {number} is no JSON; remove the line") from None
    return records


def summarise(run_folder: Path | str) -> dict[str, Any]:
    """Step, time left, goodput, last checkpoint and last fault of a run.

    Goodput is the time of steps that count over all wall-clock time since the first start; a step
    that was done again after a crash counts once.
    """
    records = read_log(run_folder)
    steps = {record["step"]: record for record in records if record["event"] == "step"}
    starts = [record for record in records if record["event"] == "start"]
    faults = [record for record in records if record["event"] == "fault"]
    last = steps[max(steps)] if steps else {}
    ended = bool(records) and records[-1]["event"] == "end"
    latest = Path(run_folder) / "checkpoints" / LATEST
    now = records[-1]["time"] if ended else time.time()
    useful = sum(record.get("seconds", 0.0) for record in steps.values())
    wall = now - starts[0]["time"] if starts else 0.0
    return {
        "step": last.get("step", 0),
        "total_steps": starts[-1].get("total_steps") if starts else None,
        "finished": ended,
        "loss": last.get("loss"),
        "tokens_per_second": last.get("tokens_per_second"),
        "seconds_left": 0.0 if ended else last.get("seconds_left"),
        "goodput": useful / wall if wall > 0 else None,
        "last_checkpoint": latest.read_text().strip() if latest.is_file() else None,
        "last_fault": faults[-1].get("message") if faults else None,
    }


def run_status(run_folder: Path | str) -> dict[str, Any]:
    """Print the summary, one line a fact, and return it."""
    summary = summarise(run_folder)
    for name, value in summary.items():
        shown = f"{value:.4g}" if isinstance(value, float) else ("none" if value is None else value)
        print(f"{name.replace('_', ' '):18} {shown}")
    return summary
