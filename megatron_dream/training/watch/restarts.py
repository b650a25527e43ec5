"""RUN/restarts.jsonl: every start of a run, and the end of starting again and again at the same step."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config.load import to_yaml
from ...config.schema import RunConfig
from ...errors import ConfigError
from .ends import end_of_last_start, forget_end

RESTARTS_FILE = "restarts.jsonl"
# ends that say nothing against starting again
_WANTED = ("done", "interrupted")


def read_restarts(run_folder: Path) -> list[dict[str, Any]]:
    """Records of all starts; lines that a crash or a full disk cut off are left out."""
    path = run_folder / RESTARTS_FILE
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def fingerprint(config: RunConfig) -> str:
    """Of everything in a configuration but the watch's own settings."""
    lines = to_yaml(config).splitlines()
    kept, is_watch = [], False
    for line in lines:
        if not line.startswith((" ", "-")):
            is_watch = line.startswith(("watch:", "alerts:"))
        if not is_watch:
            kept.append(line)
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def starts_in_vain(earlier: Sequence[dict[str, Any]], step: int, configuration: str) -> int:
    """How many starts in a row, up to the last, began at ``step`` with this configuration."""
    count = 0
    for record in reversed(earlier):
        is_same = record["step"] == step and record.get("configuration") == configuration
        if not is_same or (record.get("end") or {}).get("reason") in _WANTED:
            break
        count += 1
    return count


def record_start(
    run_folder: Path,
    config: RunConfig,
    *,
    step: int,
    layout: str,
    hosts: Sequence[str],
    began: float,
) -> dict[str, Any]:
    """Write down that the run starts; one rank calls this, before anything long.

    Args:
        run_folder: of the run.
        config: of this start; ``watch.max_starts_without_progress`` bounds it.
        step: that it goes on from.
        layout: in words.
        hosts: names of its nodes.
        began: epoch seconds of the process's beginning.

    Returns:
        The record.

    Raises:
        ConfigError: too many starts in a row began at this step.
    """
    earlier = read_restarts(run_folder)
    end = end_of_last_start(run_folder)
    if earlier:
        earlier[-1]["end"] = end
        for record, following in zip(earlier, earlier[1:], strict=False):
            record["end"] = following.get("previous_end")
    configuration = fingerprint(config)
    bound = config.watch.max_starts_without_progress
    if bound and (vain := starts_in_vain(earlier, step, configuration)) >= bound:
        raise ConfigError(
            f"{vain} starts in a row began at step {step} and none got to a later checkpoint (the last "
            f"end: {_words(end)}); find out why in the job's log and in {run_folder / 'stacks'}, then remove "
            f"{run_folder / RESTARTS_FILE}, or start with --watch.max_starts_without_progress 0"
        )
    record = {
        "start": len(earlier) + 1,
        "time": round(time.time(), 3),
        "began": round(began, 3),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart_count": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "hosts": list(hosts),
        "step": step,
        "layout": layout,
        "configuration": configuration,
        "previous_end": end if earlier else None,
    }
    _append(run_folder / RESTARTS_FILE, record)
    forget_end(run_folder)
    return record


def _words(end: dict[str, Any] | None) -> str:
    if end is None:
        return "killed without a word"
    return f"{end.get('reason')}, {end.get('message')}"


def _append(path: Path, record: dict[str, Any]) -> None:
    """One line more, on the disk; a line that was cut off before is ended first."""
    is_cut = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(("\n" if is_cut else "") + json.dumps(record) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
