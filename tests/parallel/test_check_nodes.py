"""``check-nodes`` with several processes over gloo: four ranks that say they are on four nodes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# A rank whose node is slow, broken or silent is made so from outside: the module is patched, then run.
CALL = """
import os, sys, time
import megatron_dream.cluster.measure as measure
product, summing = measure.product, measure.summing
here = os.environ["SLURM_PROCID"] == "2"
def slow():
    seconds, digest = product()
    return (0.01 * (20 if here else 1)), digest
def failing(group, seconds):
    if here:
        raise RuntimeError("the wire is cut")
    return summing(group, seconds) * 0 + 0.01
measure.product = slow
{patch}
from megatron_dream.cli import main
sys.exit(main({words!r}))
"""


def check(tmp_path: Path, patch: str = "", started: int = 4, seconds: float = 60) -> dict[str, Any]:
    """Run the check on ranks 0..started-1 of 4; what rank 0 wrote, its output and exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["check-nodes", "--slow", "3", "--seconds", str(seconds)]
    words += ["--output", f"{tmp_path}/r.json", "--bad-nodes", f"{tmp_path}/bad"]
    code = CALL.format(patch=patch, words=words)
    processes = []
    for rank in range(started):
        slurm = {
            "SLURM_PROCID": rank, "SLURM_LOCALID": 0, "SLURM_NODEID": rank, "SLURM_STEP_ID": 0,
            "SLURM_STEP_NUM_TASKS": 4, "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
            "SLURM_STEP_NODELIST": "n[0-3]", "SLURMD_NODENAME": f"n{rank}",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": ROOT,
            "MEGATRON_DREAM_DEVICE": "cpu", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        environment = os.environ | {name: str(value) for name, value in slurm.items()}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code], env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    bad = tmp_path / "bad"
    return {
        "codes": [process.returncode for process in processes],
        "output": outputs[0],
        "report": json.loads((tmp_path / "r.json").read_text()),
        "bad": bad.read_text().split() if bad.exists() else [],
    }


def test_a_slow_node_is_named(tmp_path: Path) -> None:
    """Rank 2 multiplies 20 times as long as the others."""
    found = check(tmp_path)
    assert found["bad"] == ["n2"], found["output"]
    assert found["codes"] == [1, 0, 0, 0]
    (fault,) = [line for line in found["output"].splitlines() if "FAULT" in line]
    assert "n2: rank 2 multiplies: takes 200 ms, the median is 10 (20.00 times)" in fault
    pairs = [set(one["pairs"]) for one in found["report"]["measured"].values()]
    assert pairs[0] == {"n0 n1", "n3 n0"} and len(set.union(*pairs)) == 4


def test_a_node_without_network_is_named_and_its_neighbours_are_not(tmp_path: Path) -> None:
    """The others wait for it in vain, a sixth of the time each, and go on to their next pair."""
    patch = "measure.product, measure.summing = product, failing"
    found = check(tmp_path, patch, seconds=60)
    assert found["bad"] == ["n2"], found["output"]
    assert "n2: sums up with no neighbour" in found["output"]


def test_a_node_that_does_not_start_is_named(tmp_path: Path) -> None:
    found = check(tmp_path, started=3, seconds=12)
    assert found["bad"] == ["n3"], found["output"]
    assert "n3: 1 ranks never answered" in found["output"]
    assert found["codes"] == [1, 0, 0]
