"""Many random faults in one pretraining of four processes (TP 2 x DP 2, gloo): does it end as it should?

    python tests/acceptance/soak.py [--faults 50] [--seed 0] [--stall-seconds 60] [--again]

Two runs of a tiny model. One meets faults, one after another: kill -9 or SIGSTOP of a rank, a disk (a small
tmpfs) that is full when a checkpoint is due, a checkpoint with a byte changed or its end cut off, NaN in the
gradients of one rank for one step (the update is skipped) or for two (the run goes back and leaves the
data out). The other is undisturbed: those updates and that data are left out by hand. Weights, moments and
everything else in the last checkpoints must be equal bit for bit. The run's own watchdog must end a hang: a
job whose log stands still for --stall-seconds is killed by the supervisor of this script (soak_job.py) and
started again, but the fault then counts as failed.

Called again it goes on where it was interrupted. Writes docs/results/soak.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import yaml  # noqa: E402

from megatron_dream.checkpoint.metadata import resolve_checkpoint  # noqa: E402
from megatron_dream.checkpoint.tensors import TensorReader  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from tests.acceptance.soak_job import (  # noqa: E402
    GRACE_SECONDS,
    HANG_SECONDS,
    LAYOUT,
    WATCHED,
    WORLD_SIZE,
    Fault,
    Job,
    events,
    put,
    small_disk,
)
from tests.warm import WarmStarter  # noqa: E402

WORK = ROOT / "work" / "soak"
RESULTS = ROOT / "docs" / "results" / "soak.json"
BATCH, STEPS_A_FAULT, DISK_MEGABYTES = 8, 8, 32
# Of 50.
SHARES = {
    "kill": 12, "stop": 8, "full_disk": 8, "corrupt": 7, "truncate": 7, "nan": 5, "burst": 3,
}  # fmt: skip


def draw_plan(count: int, seed: int) -> list[Fault]:
    """Faults in the order in which they come, one every ``STEPS_A_FAULT`` steps or so."""
    draw = random.Random(seed)
    kinds = [kind for kind, share in SHARES.items() for _ in range(-(-share * count // 50))]
    draw.shuffle(kinds)
    return [
        Fault(kind, 6 + STEPS_A_FAULT * n + draw.randrange(4), draw.randrange(WORLD_SIZE))
        for n, kind in enumerate(kinds[:count])
    ]


def ordinals(faults: list[Fault]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plans of the ranks (soak_rank.py): of the faulty run and of the undisturbed one.

    A burst's two steps of data are left out, so every later step stands two steps of ordinals further on.
    """
    nan: list[list[int]] = []
    without: list[int] = []
    left_out: list[list[int]] = []
    for fault in faults:
        first = BATCH * (fault.step + 2 * len(left_out))
        if fault.kind == "nan":
            nan.append([first, fault.rank])
            without.append(first)
        if fault.kind == "burst":
            nan += [[first, fault.rank], [first + BATCH, (fault.rank + 1) % WORLD_SIZE]]
            left_out.append([first, first + 2 * BATCH])
    return {"nan": nan}, {"without": without, "left_out": left_out}


def make_config(warm: WarmStarter, steps: int) -> Path:
    """Token files of the standard library's sources, and the configuration of both runs."""
    WORK.mkdir(parents=True, exist_ok=True)
    text, model = WORK / "text.jsonl", WORK / "t.model"
    with open(text, "w", encoding="utf-8") as stream:
        for file in sorted(Path(os.__file__).parent.glob("*.py"))[:60]:
            code = file.read_text(encoding="utf-8", errors="replace")
            stream.write(json.dumps({"text": code}) + "\n")
    for words in (
        ["tokenizer", "train", "--input", text, "--vocab-size", "600", "--output", model],
        ["preprocess", "--input", text, "--output-prefix", WORK / "train", "--tokenizer", model,
         "--append-eod", "--overwrite"],
    ):  # fmt: skip
        done = warm.run("megatron_dream", *map(str, words))
        if done.returncode:
            raise SystemExit(done.stderr)
    config = {
        "model": {
            "num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_query_groups": 2,
            "ffn_hidden_size": 128, "tie_word_embeddings": True,
        },
        "tokenizer": {"path": str(model)},
        "data": {
            "train": [{"prefix": str(WORK / "train")}], "sequence_length": 64, "num_workers": 0,
            "cache_folder": str(WORK / "cache"),
        },
        "optimizer": {"lr": 1e-3},
        "training": {
            "train_steps": steps, "micro_batch_size": 2, "global_batch_size": BATCH,
            "precision": "fp32",
        },
        "checkpoint": {"save_interval": 2, "keep_last": 2},
        "faults": {
            "patience": 1, "spike_window": STEPS_A_FAULT, "rollback_extra_steps": 0,
            "max_missed_saves": 50,
        },
    }  # fmt: skip
    path = WORK / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class Soak:
    """Both runs.

    Args:
        warm: starts processes.
        config: of the runs.
        faults: to put in.
        stall_seconds: until a job is killed.
        rows: of faults that an interrupted call put in.
    """

    def __init__(
        self,
        warm: WarmStarter,
        config: Path,
        faults: list[Fault],
        stall_seconds: float,
        rows: list[dict[str, Any]],
    ) -> None:
        self.warm, self.config, self.faults = warm, config, faults
        self.stall_seconds, self.rows = stall_seconds, rows
        self.plan, self.by_hand = ordinals(faults)
        self.straight, self.faulty = WORK / "straight", WORK / "faulty"

    def start(self, run: Path, plan: dict[str, Any]) -> Job:
        path = WORK / f"{run.name}-plan.json"
        path.write_text(json.dumps(plan))
        words = ["--config", str(self.config), "--checkpoint.run_folder", str(run), *LAYOUT]
        words += WATCHED
        words += ["--watch.max_starts_without_progress", "0"]  # many faults may hit one step
        return Job(self.warm, run, path, words, self.stall_seconds)

    def undisturbed(self) -> None:
        if not any(event["event"] == "end" for event in events(self.straight)):
            self.finish(self.start(self.straight, self.by_hand))

    def finish(self, job: Job) -> None:
        job.end()
        if any(process.returncode for process in job.processes):
            raise SystemExit(f"the job failed:\n{job.said()}")

    def disturbed(self) -> None:
        """Put in what is left, one fault after another; every row is kept when it is there."""
        outside = [fault for fault in self.faults if fault.kind not in ("nan", "burst")]
        draw = random.Random(len(self.rows))
        job = self.start(self.faulty, self.plan)
        for fault in outside[len(self.rows) :]:
            if not job.wait_for(partial(_has_reached, job, fault.step)):
                raise SystemExit(f"the job ended before step {fault.step}:\n{job.said()}")
            row = put(job, fault, draw)
            if row.pop("is_over"):
                job = self.start(self.faulty, self.plan)
                job.wait_for(partial(_has_reached, job, 0))
                row["gone_on_from"] = next(
                    (e["step"] for e in job.new_events() if e["event"] == "start"), None
                )
            self.rows.append(row)
            write_json(WORK / "rows.json", self.rows)
            print(json.dumps(row), flush=True)
        self.finish(job)

    def bad_numbers(self) -> list[dict[str, Any]]:
        """Rows of what the log says of NaN."""
        log = [event for event in events(self.faulty) if event["event"] == "fault"]
        rows = []
        for fault in self.faults:
            kind = {"nan": "not_finite", "burst": "rollback"}.get(fault.kind)
            if kind:
                near = range(fault.step, fault.step + 3)
                said = [e["message"] for e in log if e["kind"] == kind and e["step"] in near]
                rows.append(
                    {"kind": fault.kind, "step": fault.step, "rank": fault.rank, "said": said[:1]}
                )
        return rows

    def differences(self) -> list[str]:
        """Names of tensors that differ in the last checkpoints."""
        first, second = (
            TensorReader(resolve_checkpoint(run / "checkpoints"))
            for run in (self.straight, self.faulty)
        )
        if first.names() != second.names():
            return ["the names of tensors"]
        return [n for n in first.names() if not torch.equal(first.read(n), second.read(n))]


def _has_reached(job: Job, step: int) -> bool:
    return job.step() >= step


def faults_of_row(row: dict[str, Any], stall_seconds: float) -> str | None:
    """What is wrong with a row, if anything."""
    if row.get("is_noticed") is False:
        return "nobody noticed the full disk"
    if row.get("said") == []:
        return "the log says nothing of it"
    if row.get("ended_by") == "supervisor" or row.get("seconds", 0.0) > stall_seconds:
        return "it hung"
    return None


def table(result: dict[str, Any]) -> str:
    """The result as a page."""
    asked_stall = result["stall_seconds"]
    equal = "equal bit for bit" if not result["differences"] else "DIFFERENT"
    lines = [
        "# Soak",
        "",
        f"{len(result['rows'])} random faults (seed {result['seed']}) in a run of {result['steps']} "
        f"steps, TP 2 x DP 2 on gloo, {result['minutes']:.0f} minutes; made by "
        f"`python tests/acceptance/soak.py`. The last checkpoint and that of the undisturbed run: {equal} "
        f"({result['tensors']} tensors, moments included). Longest wait for a job to end: "
        f"{result['longest_seconds']:.0f} s (set: a phase has {HANG_SECONDS:.0f} s, the end after it "
        f"{GRACE_SECONDS:.0f}; a supervisor kills after {asked_stall:.0f} s without a line).",
        "",
        "| step | fault | rank | ended by | after s | gone on from step | outcome |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(result["rows"], key=lambda row: row["step"]):
        cells = [row["step"], row["kind"], row["rank"], row.get("ended_by", "-")]
        cells += [row.get("seconds", "-"), row.get("gone_on_from", "-"), row["outcome"]]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def outcome(row: dict[str, Any], log: list[dict[str, Any]], fault: str | None) -> str:
    """A few words on what came of a fault."""
    if fault:
        return f"FAILED: {fault}"
    if row.get("said"):
        return str(row["said"][0]).split(": ", 1)[1]
    if row["kind"] == "full_disk":
        return "the save was missed and the run went on"
    if "damaged" in row:
        name = str(row["damaged"]).split("/")[0]
        was_passed = any(f"{name} is passed over" in event.get("message", "") for event in log)
        return f"{row['damaged']} damaged" + (
            ": passed over" if was_passed else ", not reached again"
        )
    return "started again, went on"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stall-seconds", type=float, default=60.0)
    parser.add_argument("--again", action="store_true", help="forget an interrupted call")
    asked = parser.parse_args()
    started = time.monotonic()
    if asked.again:
        shutil.rmtree(WORK, ignore_errors=True)
    faults = draw_plan(asked.faults, asked.seed)
    steps = 6 + STEPS_A_FAULT * (asked.faults + 1)
    warm, kept, rows_file = WarmStarter(), WORK / "kept", WORK / "rows.json"
    rows = json.loads(rows_file.read_text()) if rows_file.exists() else []
    soak = Soak(warm, make_config(warm, steps), faults, asked.stall_seconds, rows)
    soak.undisturbed()
    checkpoints = soak.faulty / "checkpoints"
    with small_disk(checkpoints, DISK_MEGABYTES) as is_mounted:
        if not is_mounted:
            print("a tmpfs cannot be mounted here: no full disk among the faults", flush=True)
            soak.faults = [fault for fault in faults if fault.kind != "full_disk"]
        elif kept.exists():
            shutil.copytree(kept, checkpoints, dirs_exist_ok=True)
        try:
            soak.disturbed()
            differences = soak.differences()
            names = len(TensorReader(resolve_checkpoint(checkpoints)).names())
        finally:
            if is_mounted:  # what lies on the small disk goes with it
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(checkpoints, kept, ignore=shutil.ignore_patterns("ballast"))
    log = events(soak.faulty)
    rows = [*soak.rows, *soak.bad_numbers()]
    wrong = [faults_of_row(row, asked.stall_seconds) for row in rows]
    for row, fault in zip(rows, wrong, strict=True):
        row["outcome"] = outcome(row, log, fault)
    result = {
        "seed": asked.seed,
        "steps": steps,
        "stall_seconds": asked.stall_seconds,
        "minutes": (time.monotonic() - started) / 60,
        "has_full_disk": is_mounted,
        "longest_seconds": max([row.get("seconds", 0.0) for row in rows], default=0.0),
        "tensors": names,
        "differences": differences,
        "rows": rows,
    }
    write_json(RESULTS, result)
    with atomic_write(RESULTS.with_suffix(".md")) as stream:
        stream.write(table(result))
    print(table(result))
    warm.close()
    return 1 if differences or any(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
