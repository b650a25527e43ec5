"""Runs on a real Slurm of two nodes that take longer than ``make test`` may: preemption and agents.

Each starts ``pretrain`` on two ranks, one a node, disturbs it, waits for its end, and compares parameters and
optimizer with a run that nobody disturbed. Writes docs/results/slurm_runs.json: what was done to each
run, how often it was started, how long it took, whether it is equal; the same as a page beside it. Needs
Debian's slurm-wlm and munge.

    python tests/acceptance/slurm_runs.py [--only NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.files import atomic_write, write_json  # noqa: E402
from tests.system.checkpoints import assert_equal_checkpoints  # noqa: E402
from tests.system.slurm_cluster import SlurmCluster  # noqa: E402
from tests.system.test_slurm_pipeline import ranks_of, wait_for_step, write_configs, write_data  # noqa: E402
from tests.warm import environment  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "slurm_runs.json"
STEPS, INTERVAL = 60, 10
SBATCH = [
    "--nodes=2",
    "--ntasks-per-node=1",
    "--cpus-per-task=1",
    "--time=60",
    "--signal=B:USR1@60",
]

Disturb = Callable[[SlurmCluster, str, Path, Path], None]


def prepare(cluster: SlurmCluster, folder: Path) -> None:
    """Tokenizer and token files of the pipeline's test."""
    write_configs(folder)
    write_data(folder)
    command = [sys.executable, "-m", "megatron_dream"]
    tokenizer = ["tokenizer", "train", "--input", f"{folder}/train.jsonl", "--vocab-size", "600"]
    subprocess.run(
        [*command, *tokenizer, "--output", f"{folder}/t.model"], env=environment(), check=True
    )
    for name in ("train", "valid"):
        words = [
            "preprocess",
            "--input",
            f"{folder}/{name}.jsonl",
            "--tokenizer",
            f"{folder}/t.model",
        ]
        words += ["--output-prefix", f"{folder}/{name}_text_document", "--append-eod"]
        subprocess.run([*command, *words], env=environment(), check=True)


def signalled(name: str) -> Disturb:
    """The batch shell is told twice, as before the time limit."""

    def disturb(cluster: SlurmCluster, job: str, run: Path, log: Path) -> None:
        for step in (10, 30):
            wait_for_step(run, step, log)
            cluster.run("scancel", "--batch", f"--signal={name}", job)

    return disturb


def requeued(cluster: SlurmCluster, job: str, run: Path, log: Path) -> None:
    """As preemption does it: nobody is warned in time."""
    wait_for_step(run, 20, log)
    cluster.run("scontrol", "requeue", job)


def killed(cluster: SlurmCluster, job: str, run: Path, log: Path) -> None:
    wait_for_step(run, 20, log)
    os.kill(ranks_of(job)[1], signal.SIGKILL)


def killed_under_an_agent(cluster: SlurmCluster, job: str, run: Path, log: Path) -> None:
    """A worker of the second agent: its parent's place is not its own, RANK tells."""
    wait_for_step(run, 20, log)
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and b"SLURM_JOB_ID=%s\0" % job.encode() in (
                text := (folder / "environ").read_bytes()
            ):
                if b"\0RANK=1\0" in text:
                    os.kill(int(folder.name), signal.SIGKILL)
                    return
    raise AssertionError("no worker was found")


def undisturbed(cluster: SlurmCluster, job: str, run: Path, log: Path) -> None:
    """Nothing."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What is done to a run, and what its job is given beside the usual."""

    disturb: Disturb
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    sbatch: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


AGENTS = {"DREAM_LAUNCH": "ft"}
# Both ranks on one node, the other one waits for its loss.
SPARE = Run(undisturbed, AGENTS | {"DREAM_SPARE_NODES": "1"}, ("--ntasks-per-node=2",))
RUNS = {
    "undisturbed": Run(undisturbed),
    "rank killed": Run(killed),
    "requeued without warning": Run(requeued),
    "USR1 before the time limit, twice": Run(signalled("USR1")),
    "TERM, twice": Run(signalled("TERM")),
    "agents: undisturbed": Run(undisturbed, AGENTS),
    "agents: a spare node": SPARE,
    "agents: worker killed": Run(killed_under_an_agent, AGENTS),
    "agents: USR1 before the time limit, twice": Run(signalled("USR1"), AGENTS),
    # Ranks end with 75 by themselves: no agent may start them again.
    "agents: a time limit": Run(undisturbed, AGENTS, words=("--watch.time_limit_minutes", "0.4")),
}
if importlib.util.find_spec("nvidia_resiliency_ext"):  # pip install 'megatron-dream[ft]'
    NVRX = AGENTS | {"DREAM_FT_AGENT": "nvrx"}
    RUNS["agents of nvrx: worker killed"] = Run(killed_under_an_agent, NVRX)
    RUNS["agents of nvrx: USR1, twice"] = Run(signalled("USR1"), NVRX)


def run_one(cluster: SlurmCluster, folder: Path, name: str) -> dict[str, object]:
    """Submit, disturb, wait; the job's story."""
    asked = RUNS[name]
    run, log = folder / name.replace(" ", "_"), folder / f"{name.replace(' ', '_')}.log"
    own = {"DREAM_CHECK": "off"} | asked.settings
    words = ["--export=" + ",".join(["ALL", *(f"{k}={v}" for k, v in own.items())])]
    words += [
        *SBATCH,
        *asked.sbatch,
        f"--output={log}",
        "slurm/pretrain.sbatch",
        "--config",
        f"{folder}/pretrain.yaml",
    ]
    words += ["--checkpoint.run_folder", str(run), "--training.train_steps", str(STEPS)]
    words += ["--checkpoint.save_interval", str(INTERVAL), *asked.words]
    started = time.monotonic()
    job = cluster.submit(*words, cwd=ROOT)
    asked.disturb(cluster, job, run, log)
    cluster.wait(job, seconds=500)
    text = log.read_text()
    print(f"--- {name}\n{text}", flush=True)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "starts of the job": text.count(": job "),
        "done": "pretrain: done" in text,
        "saved at the signal": text.count("exit code 75 "),
        "run": str(run),
    }


def table(results: dict[str, dict[str, object]]) -> str:
    """The results as a page."""
    names = [*next(iter(results.values()))]
    lines = ["# Runs on Slurm", "", "`python tests/acceptance/slurm_runs.py`."]
    lines += ["", f"| run | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
    for run, found in results.items():
        lines.append(f"| {run} | {' | '.join(str(found[name]) for name in names)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """All runs; 0 if each is done and equal to the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", default="", help="runs whose name contains this")
    only = parser.parse_args().only
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as place, SlurmCluster() as cluster:
        folder = Path(place)
        own = {name: value for name, value in environment().items() if name != "PATH"}
        own |= {"DREAM_PYTHON": sys.executable, "DREAM_SITE": os.devnull}
        cluster.environment |= own | {"SLURM_CONF": cluster.environment["SLURM_CONF"]}
        prepare(cluster, folder)
        for name in RUNS:
            if name != "undisturbed" and only not in name:
                continue
            found = run_one(cluster, folder, name)
            run = Path(str(found.pop("run")))
            try:
                assert_equal_checkpoints(folder / "undisturbed", run)
                found["equal"] = True
            except Exception as error:  # told, not raised: the other runs are worth seeing
                found["equal"] = f"{type(error).__name__}: {str(error)[:200]}"
            results[name] = found
            print(name, found, flush=True)
    if not only:
        write_json(RESULTS, results)
        with atomic_write(RESULTS.with_suffix(".md")) as stream:
            stream.write(table(results))
    return int(not all(one["done"] and one["equal"] is True for one in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
