"""``megatron-dream status RUN``: how far a run is, read from its folder only."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from ..checkpoint.metadata import LATEST
from .log import read_log
from .watch.board import last_beat
from .watch.ends import read_end
from .watch.goodput import account
from .watch.restarts import read_restarts

_GIB = 2**30


def summarise(run_folder: Path | str) -> dict[str, Any]:
    """Step, time left, goodput and where the rest went, restarts, checkpoint, disk, last faults of a run.

    Goodput is the time of steps that count over all wall-clock time since the first start; a step
    that was done again after a crash counts once.

    Raises:
        DataError: there is no log.
    """
    folder = Path(run_folder)
    records = read_log(folder)
    starts = [record for record in records if record["event"] == "start"]
    last = _last_step(records)
    ended = bool(records) and records[-1]["event"] == "end"
    now = records[-1]["time"] if ended else time.time()
    spent = account(records, now)
    latest = folder / "checkpoints" / LATEST
    return {
        "step": last.get("step", 0),
        "total_steps": starts[-1].get("total_steps") if starts else None,
        "finished": ended,
        "loss": last.get("loss"),
        "tokens_per_second": last.get("tokens_per_second"),
        "seconds_left": 0.0 if ended else last.get("seconds_left"),
        "goodput": spent.goodput,
        "time_spent": {name: share for name, share in spent.parts().items() if share > 0},
        "starts": len(read_restarts(folder)) or len(starts),
        "last_end": read_end(folder),
        "heartbeat_age": None if ended else last_beat(folder),
        "last_checkpoint": latest.read_text().strip() if latest.is_file() else None,
        "checkpoint_age": max(0.0, now - latest.stat().st_mtime) if latest.is_file() else None,
        "disk_free_bytes": shutil.disk_usage(folder).free,
        "last_straggler": _last(records, "straggler"),
        "last_fault": _last(records, "fault"),
    }


def _last_step(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of the last step that counts: what a start or going back takes back does not."""
    last: list[dict[str, Any]] = []
    for record in records:
        gone_to = record["step"] if record["event"] == "start" else record.get("gone_to")
        while last and gone_to is not None and last[-1]["step"] > gone_to:
            last.pop()
        if record["event"] == "step":
            last.append(record)
    return last[-1] if last else {}


def _last(records: list[dict[str, Any]], event: str) -> str | None:
    """What was said last of an event, and at which step."""
    found = next((one for one in reversed(records) if one["event"] == event), None)
    return None if found is None else f"step {found['step']}: {found.get('message')}"


def run_status(run_folder: Path | str) -> dict[str, Any]:
    """Print the summary, one line a fact, and return it."""
    summary = summarise(run_folder)
    for name, value in summary.items():
        print(f"{name.replace('_', ' '):18} {_shown(name, value)}")
    return summary


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name == "time_spent":
        return ", ".join(f"{part.replace('_', ' ')} {share:.1%}" for part, share in value.items())
    if name == "last_end":
        return f"{value.get('reason')} at step {value.get('step')}: {value.get('message')}"
    if name == "disk_free_bytes":
        return f"{value / _GIB:.1f} GiB"
    if name in ("seconds_left", "heartbeat_age", "checkpoint_age"):
        return f"{value:.0f} s"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
