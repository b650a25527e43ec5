"""What the figures were measured on: device, driver, libraries, clocks, load."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from megatron_dream.cluster.facts import collect_facts, node_name
from megatron_dream.doctor import collect

_CLOCKS = (
    "clocks.sm",
    "clocks.mem",
    "power.draw",
    "temperature.gpu",
    "clocks_throttle_reasons.active",
)
_QUERY_SECONDS = 20
_ROWS = ("Transformer Engine", "apex (NVIDIA)", "DALI", "transformers", "device")


@cache
def facts() -> dict[str, Any]:
    """Of this node when first asked for; takes seconds, and no GPU memory."""
    told = {row.name: row.version for row in collect() if row.name in _ROWS}
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **collect_facts(),
        **told,
        "processor": processor(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def processor() -> str:
    """The CPU's name as the kernel gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()


@cache
def identity() -> str:
    """What results belong to: this machine's devices, and which of them are used."""
    gpus = _query(("name", "driver_version")) or ["no GPU"]
    used = os.environ.get("MEGATRON_DREAM_DEVICE", "")
    return "; ".join([node_name(), processor(), *sorted(set(gpus)), str(len(gpus)), used])


def clocks() -> list[str] | str:
    """Clocks, power, heat and throttling of each GPU now; on a CPU the load of the last minute."""
    return _query(_CLOCKS) or f"load {os.getloadavg()[0]:.1f}"


def _query(fields: tuple[str, ...]) -> list[str]:
    """A line a GPU; none without nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
