"""``check-nodes`` with several processes over gloo: four ranks that say they are on four nodes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.warm import WarmStarter

# A rank whose node is slow, broken or silent is made so from outside: the module is patched, then run.
RANK = """
import os, sys
os.environ |= dict(word.split("=", 1) for word in sys.argv[1:])
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


class Check:
    """The check on ranks 0..started-1 of 4; what rank 0 wrote, its output and the exit codes."""

    def __init__(
        self,
        warm: WarmStarter,
        folder: Path,
        patch: str = "",
        started: int = 4,
        seconds: float = 60,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["check-nodes", "--slow", "3", "--seconds", str(seconds)]
        words += ["--output", f"{folder}/r.json", "--bad-nodes", f"{folder}/bad"]
        script = folder / "rank.py"
        script.write_text(RANK.format(patch=patch, words=words))
        processes = []
        for rank in range(started):
            slurm = {
                "SLURM_PROCID": rank, "SLURM_LOCALID": 0, "SLURM_NODEID": rank, "SLURM_STEP_ID": 0,
                "SLURM_STEP_NUM_TASKS": 4, "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
                "SLURM_STEP_NODELIST": "n[0-3]", "SLURMD_NODENAME": f"n{rank}",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
            given = [f"{name}={value}" for name, value in slurm.items()]
            files = {"output": folder / f"output-{rank}", "errors": folder / f"errors-{rank}"}
            processes.append(warm.start(str(script), *given, **files))
        self.codes = [process.wait(200) for process in processes]
        self.output = (folder / "output-0").read_text()
        self.report = json.loads((folder / "r.json").read_text())
        bad = folder / "bad"
        self.bad = bad.read_text().split() if bad.exists() else []


def test_a_slow_node_is_named(tmp_path: Path, warm: WarmStarter) -> None:
    """Rank 2 multiplies 20 times as long as the others."""
    found = Check(warm, tmp_path)
    assert found.bad == ["n2"], found.output
    assert found.codes == [1, 0, 0, 0]
    (fault,) = [line for line in found.output.splitlines() if "FAULT" in line]
    assert "n2: rank 2 multiplies: takes 200 ms, the median is 10 (20.00 times)" in fault
    pairs = [set(one["pairs"]) for one in found.report["measured"].values()]
    assert pairs[0] == {"n0 n1", "n3 n0"} and len(set.union(*pairs)) == 4


def test_a_node_without_network_is_named_and_its_neighbours_are_not(
    tmp_path: Path, warm: WarmStarter
) -> None:
    """The others wait for it in vain, a sixth of the time each, and go on to their next pair."""
    patch = "measure.product, measure.summing = product, failing"
    found = Check(warm, tmp_path, patch, seconds=30)
    assert found.bad == ["n2"], found.output
    assert "n2: sums up with no neighbour" in found.output


def test_a_node_that_does_not_start_is_named(tmp_path: Path, warm: WarmStarter) -> None:
    found = Check(warm, tmp_path, started=3, seconds=8)
    assert found.bad == ["n3"], found.output
    assert "n3: 1 ranks never answered" in found.output
    assert found.codes == [1, 0, 0]
