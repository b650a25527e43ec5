"""Random truncation on toy problems, measured: does padding drown the loss and make a model end early?

A tiny model is pretrained on the problems' texts, once. From it every arm is fine-tuned by ``megatron-dream
sft``: padded to the maximum, to the longest, both modes of random truncation; for each seed (order of the
data and noise) all arms, so that differences are paired. Twice: at equal steps, and at equal computed
positions, those that ``to the longest`` takes. Then the figures of truncation_measures.py on held-out
problems.

    python tests/acceptance/sft_truncation.py                          hours
    python tests/acceptance/sft_truncation.py --steps 20 --seeds 1 --problems 32 --output FOLDER   minutes

Resumable: an arm that is measured is not trained again. Writes docs/results/sft_truncation.{json,md,png}.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import data_runs as runs  # noqa: E402
import psutil  # noqa: E402
import truncation_problems as toy  # noqa: E402
import truncation_report as report  # noqa: E402
import truncation_training as training  # noqa: E402
from truncation_training import Setup  # noqa: E402

from megatron_dream.files import write_json  # noqa: E402
from megatron_dream.training.status import read_log  # noqa: E402

ARMS = MappingProxyType(
    {
        "to the maximum": ["--sft.truncation", "off", "--sft.pad", "max"],
        "to the longest": ["--sft.truncation", "off", "--sft.pad", "longest"],
        "random": ["--sft.truncation", "random"],
        "random_with_input_pad": ["--sft.truncation", "random_with_input_pad"],
    }
)
WIDTH = 128  # data.sequence_length
CANVAS = 64


@dataclass(frozen=True)
class Plan:
    """What decides the figures."""

    steps: int
    pretrain_steps: int
    problems: int


@dataclass(frozen=True)
class Task:
    """One model."""

    arm: str
    basis: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.basis}-{self.arm}-{self.seed}".replace(" ", "_")


def tasks_of(seed: int) -> Iterator[Task]:
    """All models of a seed; those at equal steps first, whose positions the others need."""
    for basis in report.BASES:
        for arm in ARMS:
            if basis == report.EQUAL_STEPS or arm != report.REFERENCE:
                yield Task(arm, basis, seed)


def run_task(folder: Path, plan: Plan, task: Task) -> dict[str, Any]:
    """Train, export and measure one model, unless its figures are there."""
    here = folder / "models" / task.name
    result = here / "result.json"
    if result.exists():
        known: dict[str, Any] = json.loads(result.read_text())
        return known
    from truncation_measures import measure_model

    here.mkdir(parents=True, exist_ok=True)
    steps = steps_of(folder, plan, task)
    fields = [*ARMS[task.arm], "--checkpoint.init_from", f"{folder}/pretrained"]
    fields += ["--data.seed", str(1000 + task.seed)]
    seconds = training.train(folder, "sft", here / "run", steps, *fields)
    log = [record for record in read_log(here / "run") if record["event"] == "step"]
    runs.run([*training.DREAM, "export-hf", f"{here}/run", f"{here}/export", "--dtype", "float32"])
    problems = toy.read_held_out(folder)
    began = time.monotonic()
    figures = measure_model(
        here / "export", folder / "held_out.jsonl", problems, here / "lengths", CANVAS
    )
    found = {
        **asdict(task),
        "commit": commit(),
        "steps": steps,
        "positions": sum(record["positions"] for record in log),
        "masked_tokens": sum(record["masked_tokens"] for record in log),
        "train_seconds": round(seconds, 1),
        "measure_seconds": round(time.monotonic() - began, 1),
        "figures": figures,
    }
    write_json(result, found)
    shutil.rmtree(here / "run")
    return found


def commit() -> str:
    """The tree that a model was made with."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def steps_of(folder: Path, plan: Plan, task: Task) -> int:
    """At equal positions as many as take those of the reference at equal steps."""
    if task.basis == report.EQUAL_STEPS:
        return plan.steps
    own, reference = (
        json.loads((folder / "models" / known.name / "result.json").read_text())["positions"]
        for known in (
            Task(arm, report.EQUAL_STEPS, task.seed) for arm in (task.arm, report.REFERENCE)
        )
    )
    return max(1, round(plan.steps * reference / own))


def run_seed(folder: Path, plan: Plan, seed: int, seeds: int) -> list[dict[str, Any]]:
    """All models of a seed, with a line after each."""
    began, at_start = time.monotonic(), len(list(folder.glob("models/*/result.json")))
    total = seeds * len(list(tasks_of(0)))
    found = []
    parent = os.getppid()
    for task in tasks_of(seed):
        if os.getppid() != parent:
            raise SystemExit("the command that asked for this was killed")
        result = run_task(folder, plan, task)
        found.append(result)
        done = len(list(folder.glob("models/*/result.json")))
        left = (time.monotonic() - began) / max(1, done - at_start) * (total - done)
        print(
            f"[{done}/{total}] {task.arm}, {task.basis}, seed {seed}: {result['steps']} steps, "
            f"{result['positions']:,} positions; about {left / 60:.0f} minutes left",
            flush=True,
        )
    return found


def leave_nobody_behind(*_: object) -> None:
    """End the processes of all seeds, which end what they have started, and this one."""
    for child in psutil.Process().children():
        child.terminate()
    sys.exit(143)


def main() -> int:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600, help="of an arm at equal steps")
    parser.add_argument("--pretrain-steps", type=int, help="default: as many")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--problems", type=int, default=200, help="held out")
    parser.add_argument("--jobs", type=int, default=2, help="seeds that run side by side")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "sft_truncation")
    options = parser.parse_args()
    plan = Plan(options.steps, options.pretrain_steps or options.steps, options.problems)
    folder = options.work.resolve() / "-".join(map(str, asdict(plan).values()))
    began = time.monotonic()
    training.prepare(folder, Setup(WIDTH, plan.problems, plan.pretrain_steps))
    signal.signal(signal.SIGTERM, leave_nobody_behind)
    print(f"problems and pretrained model: {time.monotonic() - began:.0f} s", flush=True)
    results: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        waiting = [
            pool.submit(run_seed, folder, plan, seed, options.seeds)
            for seed in range(options.seeds)
        ]
        for done in as_completed(waiting):
            results += done.result()
    results.sort(key=lambda result: (result["basis"], result["arm"], result["seed"]))
    options.output.mkdir(parents=True, exist_ok=True)
    report.write_report(options.output / "sft_truncation", asdict(plan), results, list(ARMS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
