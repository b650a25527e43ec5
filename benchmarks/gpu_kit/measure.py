"""Timing, memory and profile of a step, the same for both sides."""

from __future__ import annotations

import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megatron_dream import device, parallel

from .breakdown import break_down


def memory_field(field: str) -> int:
    """Bytes of VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


class Peak:
    """Highest memory since it was made: the allocator's on a GPU, resident beyond the start on a CPU."""

    def __init__(self) -> None:
        self._held = 0
        if device.device_type() == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        self._held = memory_field("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM

    def bytes(self) -> dict[str, int]:
        """``allocated`` by tensors; on a GPU also ``reserved`` by torch and ``device``, all of it."""
        if device.device_type() == "cpu":
            return {"allocated": memory_field("VmHWM") - self._held}
        free, total = torch.cuda.mem_get_info()
        return {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "device": total - free,
        }


def timed_steps(
    step: Callable[[], Any], *, warmup: int, seconds: float, least: int = 3, most: int = 50
) -> dict[str, Any]:
    """Run steps for about so many seconds, all processes the same number.

    Returns:
        ``step_seconds`` (of the window, whole), ``steps``, ``quartiles`` of single steps, and what the
        steps returned, as ``answers``.
    """
    first = time.perf_counter()
    answers = [step() for _ in range(warmup - 1)]
    device.synchronize()
    began = time.perf_counter()
    answers.append(step())
    device.synchronize()
    one = time.perf_counter() - began
    count = int(parallel.broadcast_object(max(least, min(most, int(seconds / one)))))  # type: ignore[call-overload]
    single = []
    began = time.perf_counter()
    for _ in range(count):
        last = time.perf_counter()
        answers.append(step())
        single.append(time.perf_counter() - last)
    device.synchronize()
    whole = time.perf_counter() - began
    return {
        "step_seconds": whole / count,
        "steps": count,
        "quartiles": statistics.quantiles(single, n=4) if count > 1 else single * 3,
        "warmup_seconds": began - first,
        "answers": answers,
    }


def profile(step: Callable[[], Any], steps: int, is_recorder: bool) -> dict[str, Any] | None:
    """Parts of a step, of the process that records; the others step with it."""
    if not is_recorder:
        for _ in range(steps):
            step()
        return None
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.device_type() == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        for _ in range(steps):
            step()
        device.synchronize()
    found = break_down(read_trace(profiler))
    return {
        "steps": steps,
        "window_seconds": found.window,
        "seconds": found.seconds,
        "shares": found.shares(),
        "hidden_communication_seconds": found.hidden_communication,
        "top": found.top,
    }


def read_trace(profiler: Any) -> list[dict[str, Any]]:
    """Events of a profile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json.gz"
        profiler.export_chrome_trace(str(path))
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as stream:
            events: list[dict[str, Any]] = json.load(stream)["traceEvents"]
    return events
