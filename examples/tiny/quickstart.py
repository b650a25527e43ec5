"""The whole line once, on two CPU cores: from text to a page of samples.

Text, tokens, autoregressive model, diffusion model adapted from it, export, samples, page; then the
model that answers (sft) and the one that infills without knowing a length, each with a page of its own; last
a small model that unit tests teach what its demonstrations do not show (a short form of `make rl-demo`).

Every command is printed as one can type it from the project's root. A finished stage leaves a stamp
in work/quickstart/stamps; a second call goes on after the last finished one. Not in here: caches.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.config.load import load_config  # noqa: E402
from megatron_dream.config.presets import resolve_model  # noqa: E402
from megatron_dream.errors import UserError  # noqa: E402
from megatron_dream.files import write_json  # noqa: E402
from megatron_dream.training.status import read_log  # noqa: E402
from megatron_dream.training.throughput import flops_per_token  # noqa: E402

WORK = Path("work/quickstart")
DISK_BYTES, MEMORY_BYTES, MINUTES = 900_000_000, 4_000_000_000, 12
DREAM = ["megatron-dream"]
TWO = ["torchrun", "--standalone", "--nproc_per_node", "2", "-m", "megatron_dream"]
DIFFUSION = ["pretrain", "--config", "examples/tiny/diffusion.yaml"]
REHEARSAL = ["--training.train_steps", "2", "--training.eval_interval", "2"]
REHEARSAL += ["--training.eval_samples", "16", "--training.global_batch_size", "8"]


@dataclass
class Stage:
    """One step: commands to run, or a function; ``output`` proves that it is done."""

    name: str
    commands: list[list[str]] = field(default_factory=list)
    function: Callable[[], None] | None = None
    threads: int = 2


def stages(rehearse: bool) -> list[Stage]:
    """The line, in order. A rehearsal trains two steps a run: it shows the way, not a model."""
    few = REHEARSAL if rehearse else []
    part = ["--files", "150", "--asked", "2"] if rehearse else []
    long_steps = [] if rehearse else ["--training.train_steps", "250"]
    corpus, runs = WORK / "corpus", WORK / "runs"
    preprocess = [
        [*DREAM, "preprocess", "--input", f"{corpus}/{name}.jsonl", "--output-prefix",
         f"{WORK}/{name}", "--tokenizer", f"{WORK}/tokenizer.model", "--append-eod"]
        for name in ("train", "valid")
    ]  # fmt: skip
    return [
        Stage("corpus", [["python", "examples/tiny/corpus.py", "--output", str(corpus), *part]]),
        Stage(
            "tokenizer",
            [[*DREAM, "tokenizer", "train", "--input", f"{corpus}/train.jsonl", "--vocab-size",
              "4096", "--output", f"{WORK}/tokenizer.model"]],
        ),
        Stage("tokens", preprocess),
        Stage(
            "autoregressive model",
            [[*DREAM, "pretrain", "--config", "examples/tiny/ar.yaml", *few]],
        ),
        Stage("adapted to diffusion", [[*TWO, *DIFFUSION, *few]], threads=1),
        *_export_stages("adapted", "first page", rehearse),
        Stage(
            "diffusion from random weights",
            [[*TWO, *DIFFUSION, *few, "--checkpoint.init_from", "null",
              "--checkpoint.run_folder", f"{runs}/scratch"]],
            threads=1,
        ),
        Stage(
            "diffusion, longer",
            [[*TWO, *DIFFUSION, *few, *long_steps, "--checkpoint.init_from", f"{runs}/adapted",
              "--checkpoint.run_folder", f"{runs}/longer"]],
            threads=1,
        ),
        *_export_stages("longer", "page", rehearse),
        Stage(
            "export compared with the training model",
            [[*DREAM, "verify-export", f"{WORK}/export-longer", "--against", f"{runs}/longer"]],
        ),
        *_sft_stages("answers", "sft", few),
        *_sft_stages("infilling", "infill", few),
        *_rl_stages(rehearse),
    ]  # fmt: skip


def _sft_stages(name: str, recipe: str, few: list[str]) -> list[Stage]:
    """Data, training and page of one task of the sft stage; a checkpoint is sampled as it is."""
    corpus, prefix, run = WORK / "corpus", WORK / name, f"{WORK}/runs/{recipe}"
    length = "16" if few else "64"
    common = ["--output-prefix", str(prefix), "--tokenizer", f"{WORK}/tokenizer.model",
              "--max-length", "256", "--valid-share", "0.05"]  # fmt: skip
    if recipe == "sft":
        data = ["prepare-sft", "--input", f"{corpus}/answers.jsonl", *common]
        page = ["sample", run, "--jsonl", f"{corpus}/questions.jsonl", "--chat",
                "--max-new-tokens", length, "--steps", length]  # fmt: skip
    else:
        data = [
            "prepare-infill",
            "--input",
            f"{corpus}/answers.jsonl",
            "--json-key",
            "response",
            *common,
        ]
        page = ["infill", run, "--jsonl", f"{corpus}/gaps.jsonl", "--grow"]
    files = ["--output", f"{WORK}/{name}-samples.jsonl", "--page", f"{WORK}/{name}.html"]
    return [
        Stage(f"data of {name}", [[*DREAM, *data]]),
        Stage(
            f"fine-tuned: {name}",
            [[*TWO, "sft", "--config", f"examples/tiny/{recipe}.yaml", *few]],
            threads=1,
        ),
        Stage(f"page of {name}", [[*DREAM, *page, *files]]),
    ]


def _rl_stages(rehearse: bool) -> list[Stage]:
    """Problems, a start that learns their demonstrations, GRPO; nothing where programs cannot be shut in."""
    if refusal := _sandbox_refusal():
        return [Stage("RL is left out", function=lambda: print(f"  {refusal}"))]
    folder, count = WORK / "rl", "4" if rehearse else "100"
    tokenizer = ["--tokenizer.path", f"{folder}/tokenizer.model"]
    part = ["--heldout", "31", "--per-template", "5"] if rehearse else []
    start = ["--training.micro_batch_size", "32", "--training.eval_interval", "0"]
    steps = ["--training.train_steps", "25", "--training.eval_interval", "0"]
    if rehearse:
        start += ["--training.train_steps", "2"]
        steps[1] = "2"
        steps += ["--rl.prompts_per_step", "4", "--training.micro_batch_size", "8"]

    def measured(run: str) -> list[str]:
        return ["python", "examples/tiny/rl_measure.py", f"{folder}/{run}", "--problems",
                f"{folder}/heldout.jsonl", "--count", count, "--output", f"{folder}/{run}.json",
                "--brief"]  # fmt: skip

    return [
        Stage(
            "problems of RL",
            [
                ["python", "examples/tiny/rl_problems.py", "--output", str(folder), *part],
                [*DREAM, "tokenizer", "train", "--input", f"{folder}/text.jsonl", "--vocab-size",
                 "500", "--output", f"{folder}/tokenizer.model"],
                [*DREAM, "prepare-sft", "--input", f"{folder}/demonstrations.jsonl",
                 "--output-prefix", f"{folder}/demonstrations", "--tokenizer",
                 f"{folder}/tokenizer.model", "--template", "none", "--skip-rule",
                 "exact_duplicate", "--overwrite"],
            ],
        ),
        Stage(
            "fine-tuned on demonstrations with bugs",
            [
                [*TWO, "sft", "--config", "examples/tiny/rl_start.yaml", *tokenizer, "--data.train",
                 f"[{{prefix: {folder}/demonstrations}}]", "--data.valid", "[]", *start,
                 "--checkpoint.run_folder", f"{folder}/start"],
                measured("start"),
            ],
            threads=1,
        ),
        Stage(
            "reinforced by unit tests",
            [
                [*TWO, "rl", "--config", "examples/tiny/rl.yaml", *tokenizer, "--rl.problems",
                 f"[{folder}/train.jsonl]", "--rl.valid", "[]", *steps,
                 "--checkpoint.init_from", f"{folder}/start",
                 "--checkpoint.run_folder", f"{folder}/grpo"],
                measured("grpo"),
            ],
            threads=1,
        ),
    ]  # fmt: skip


def _sandbox_refusal() -> str | None:
    """Why programs cannot be judged here; None where they can."""
    from megatron_dream.sandbox import Judge, SandboxUnavailable

    try:
        Judge(1).close()
    except SandboxUnavailable as error:
        return str(error)
    return None


def _export_stages(run: str, page: str, rehearse: bool) -> list[Stage]:
    export = f"{WORK}/export-{run}"
    part = ["--count", "2", "--new-tokens", "16"] if rehearse else []
    return [
        Stage(
            f"export of {run}",
            [[*DREAM, "export-hf", f"{WORK}/runs/{run}", export, "--dtype", "float32"]],
        ),
        Stage(
            f"samples of {run}",
            [["python", "examples/tiny/sample_export.py", export, "--prompts",
              f"{WORK}/corpus/functions.jsonl", "--output", f"{WORK}/samples-{run}.json", *part]],
        ),
        Stage(page, function=lambda: write_sample_page(run, page)),
    ]  # fmt: skip


def write_sample_page(run: str, name: str) -> None:
    """Write the page that plays the recorded generations."""
    from megatron_dream.evaluation.page import SampleRecord, write_page

    records = []
    for sample in json.loads((WORK / f"samples-{run}.json").read_text(encoding="utf-8")):
        records.append(
            SampleRecord(
                prompt_tokens=sample["tokens"][1 : sample["prompt_length"]],  # without BOS
                tokens=sample["tokens"][sample["prompt_length"] :],
                opened_step=sample["opened_step"][sample["prompt_length"] :],
                confidence=sample["confidence"][sample["prompt_length"] :],
                text=sample["text"],
                meta={"function": sample["name"], "kind": sample["kind"]},
            )
        )
    path = WORK / f"{name.replace(' ', '-')}.html"
    write_page(path, records, title=f"Megatron-Dream quickstart: {run}")
    print(f"  {path.resolve().as_uri()}")


def say_what_it_takes() -> None:
    """Disk, memory and minutes, before anything starts; refuses a machine without room."""
    print(
        f"Quickstart: about {MINUTES} minutes on 2 cores, {MEMORY_BYTES / 1e9:.0f} GB of memory, "
        f"{DISK_BYTES / 1e9:.1f} GB of disk under {WORK.resolve()}."
    )
    free = shutil.disk_usage(ROOT).free
    if free < DISK_BYTES:
        raise UserError(
            f"only {free / 1e9:.1f} GB of disk are free at {ROOT}; free {DISK_BYTES / 1e9:.1f} GB"
        )


def run_stage(stage: Stage) -> None:
    """Run a stage's commands, each printed first."""
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": str(stage.threads),
        "HF_HUB_OFFLINE": "1",
    }
    for command in stage.commands:
        print(f"  $ OMP_NUM_THREADS={stage.threads} {shlex.join(command)}", flush=True)
        executable = shutil.which(command[0], path=environment["PATH"])
        words = [executable or command[0], *command[1:]]
        code = subprocess.run(words, env=environment, cwd=ROOT, check=False).returncode
        if code == 130:
            raise KeyboardInterrupt
        if code != 0:
            raise UserError(
                f"stage '{stage.name}' ended with exit code {code}; mend what the message above "
                f"says and call `make quickstart` again: it goes on from here"
            )
    if stage.function is not None:
        stage.function()


def last_validation(run: str) -> dict[str, Any]:
    """The last validation of a run."""
    records = read_log(WORK / "runs" / run)
    return [record for record in records if record["event"] == "validation"][-1]


def run_compute(run: str, config_name: str) -> float:
    """Training FLOPs of a run, by throughput.py's convention."""
    config = load_config(f"examples/tiny/{config_name}.yaml")
    config.model = resolve_model(config.model)
    config.model.vocab_size = 4096
    steps = max(r["step"] for r in read_log(WORK / "runs" / run) if r["event"] == "step")
    rows = steps * config.training.global_batch_size
    length = config.data.sequence_length
    return rows * length * flops_per_token(config.model, config.diffusion, length)


def _solved() -> dict[str, float]:
    """Share of held-out problems that are solved before and after RL; empty where that was left out."""
    found = {}
    for name in ("start", "grpo"):
        path = WORK / "rl" / f"{name}.json"
        if path.is_file():
            found[name] = json.loads(path.read_text())["groups"]["all"]["sampled"]
    return found


def closing_table(seconds: dict[str, float]) -> None:
    """What was measured and where the files are."""
    from rich.console import Console
    from rich.table import Table

    ar = run_compute("ar", "ar")
    table = Table(title="Held-out source, never trained on")
    for column in ("model", "masked CE (nats)", "bound (nats/token)", "accuracy", "total PFLOP"):
        table.add_column(column, justify="left" if column == "model" else "right")
    names = {
        "adapted": "adapted from AR",
        "scratch": "from random weights",
        "longer": "adapted, trained longer",
    }
    values = {run: last_validation(run) for run in names}
    own = {run: run_compute(run, "diffusion") for run in names}
    total = {
        "adapted": ar + own["adapted"],
        "scratch": own["scratch"],
        "longer": ar + own["adapted"] + own["longer"],
    }
    for run, label in names.items():
        value = values[run]
        table.add_row(
            label,
            f"{value['masked_cross_entropy']:.3f}",
            f"{value['bound_per_token']:.3f}",
            f"{value['accuracy']:.3f}",
            f"{total[run] / 1e15:.4f}",
        )
    console = Console()
    console.print(table)
    gain = values["scratch"]["masked_cross_entropy"] - values["adapted"]["masked_cross_entropy"]
    print(
        f"At the same diffusion tokens the adapted model is {gain:.3f} nats per masked token better "
        f"than the one from random weights, for {total['adapted'] / total['scratch']:.2f} times its "
        f"total compute (the autoregressive training included)."
    )
    rewarded = _solved()
    if rewarded:
        print(
            f"Held-out problems of the RL demonstration solved, sampled: {rewarded['start']:.0%} after "
            f"demonstrations with bugs, {rewarded['grpo']:.0%} after 25 steps with unit tests."
        )
    for name, spent in seconds.items():
        print(f"  {spent:7.1f} s  {name}")
    print(f"  {sum(seconds.values()):7.1f} s  in all stages")
    for label, path in (
        ("page", "page.html"),
        ("page of answers", "answers.html"),
        ("page of infilling", "infilling.html"),
        ("exported folder", "export-longer"),
        ("runs", "runs"),
    ):
        print(f"{label:16} {(WORK / path).resolve()}")
    summary = {
        "validation": values,
        "flops": {"ar": ar, **own},
        "rl": rewarded,
        "seconds": seconds,
    }
    write_json(WORK / "summary.json", summary)


def main() -> int:
    """Run every stage that has no stamp for its present commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="two steps a run, to see the way")
    options = parser.parse_args()
    os.chdir(ROOT)
    try:
        say_what_it_takes()
        stamps = WORK / "stamps"
        stamps.mkdir(parents=True, exist_ok=True)
        seconds: dict[str, float] = {}
        fresh = True
        line = stages(options.rehearse)
        for number, stage in enumerate(line, start=1):
            stamp = stamps / f"{number:02d}.json"
            known = json.loads(stamp.read_text()) if stamp.exists() and fresh else {}
            if known.get("name") == stage.name and known.get("commands") == stage.commands:
                seconds[stage.name] = known["seconds"]
                print(f"[{number}/{len(line)}] {stage.name}: done before")
                continue
            fresh = False  # what follows was made from something older
            print(f"[{number}/{len(line)}] {stage.name}", flush=True)
            started = time.monotonic()
            run_stage(stage)
            seconds[stage.name] = time.monotonic() - started
            done = {"name": stage.name, "commands": stage.commands, "seconds": seconds[stage.name]}
            write_json(stamp, done)
        closing_table(seconds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "interrupted; `make quickstart` goes on from the last finished stage", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
