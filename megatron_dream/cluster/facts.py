"""What a node is made of: what must be equal on all nodes of a job, and what is only told."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import subprocess
from importlib import metadata

from .. import device
from ..training.provenance import source_commit

PACKAGES = ("torch", "megatron-core", "transformer-engine", "transformers", "numpy")
_GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.sm")
_QUERY_SECONDS = 20

Facts = dict[str, str]


def node_name() -> str:
    """As Slurm calls this node; elsewhere its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def collect_facts() -> Facts:
    """This node's, by name. ``verdict.py`` says which must be equal."""
    facts = {
        "python": platform.python_version(),
        "commit": source_commit() or "unknown",
        "NCCL": device.nccl_version() or "none",
        "kernel": platform.release(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "locked memory": _limit(resource.RLIMIT_MEMLOCK),
        "open files": _limit(resource.RLIMIT_NOFILE),
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "free disk": _free(os.environ.get("DREAM_LOCAL", "/tmp")),
    }
    for name in PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "none"
    return facts | _gpus()


def _limit(kind: int) -> str:
    soft, _ = resource.getrlimit(kind)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def _free(folder: str) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.0f} GB"
    except OSError:
        return f"{folder} is not there"


def _gpus() -> Facts:
    """What nvidia-smi says; a node whose GPUs differ among themselves says so."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_SECONDS)
    except FileNotFoundError:
        return {"GPUs": "none"}
    except subprocess.TimeoutExpired:
        return {"GPUs": f"nvidia-smi gave no answer in {_QUERY_SECONDS} s"}
    if done.returncode:
        return {"GPUs": f"nvidia-smi: {(done.stderr or done.stdout).strip()[:120]}"}
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> Facts:
    """Facts of nvidia-smi's table, a line a GPU; the present clocks are told as their range."""
    rows = [
        [cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()
    ]
    if not rows:
        return {"GPUs": "none"}
    columns = dict(zip(_GPU_FIELDS, zip(*rows, strict=True), strict=True))
    clocks = sorted(columns["clocks.sm"], key=lambda text: int(text.split()[0]))
    return {
        "GPUs": f"{len(rows)} x {' and '.join(sorted(set(columns['name'])))}",
        "driver": " and ".join(sorted(set(columns["driver_version"]))),
        "GPU memory": " and ".join(sorted(set(columns["memory.total"]))),
        "highest clock": " and ".join(sorted(set(columns["clocks.max.sm"]))),
        "present clock": f"{clocks[0]} to {clocks[-1]}",
    }
