"""``make acceptance``: the Must-show lists at full size, one check after another, resumable.

A check is a command. Its result (exit code, seconds, last lines) is written to
docs/results/acceptance.json as soon as it ends, with the commit it ran on; a check that passed on
this commit is not run again, so that an interrupted call goes on where it stopped. ``--only NAME``
runs one, ``--again`` forgets earlier results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.files import write_json  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "acceptance.json"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
CHECKS: dict[str, list[str]] = {
    "fresh clone: quickstart, then tests": [sys.executable, "tests/acceptance/fresh_clone.py"],
    "layouts: gradients and losses on every layout and variant": [
        *PYTEST, "tests/parallel/test_layouts.py", "tests/parallel/test_options.py", "-m", "acceptance",
    ],
    "options: bf16, overlap, annealing, peak logits": [
        *PYTEST, "tests/parallel/test_options.py", "-m", "not acceptance",
    ],
    "resume: bit-equal after a kill, other layouts, damage": [
        *PYTEST, "tests/parallel/test_resume.py", "tests/system/test_pretrain.py",
        "-m", "not acceptance",
    ],
    "rehearsal: 8, 96 and 1,024 GPUs, wrong submissions": [
        sys.executable, "tests/acceptance/rehearsal.py",
    ],
    "rehearsal: what it says is what jobs hold and write": [
        *PYTEST, "tests/parallel/test_rehearsal.py", "tests/unit/rehearsal",
    ],
    "faults: 50 random ones in a run of four processes (about 25 minutes)": [
        sys.executable, "tests/acceptance/soak.py",
    ],
    "kill -9 at twenty moments of a save": [
        *PYTEST, "tests/system/test_pretrain.py", "-m", "acceptance",
    ],
    "noise: times, masks, balance": [*PYTEST, "tests/unit/diffusion", "tests/unit/data"],
    "parity with transformers; import and export": [
        *PYTEST, "tests/parallel/test_parity.py", "tests/unit/hf",
    ],
    "export: llama.cpp's converter takes it": [sys.executable, "tests/acceptance/llama_cpp.py"],
    "export: transformers 4.46.2, 4.57.6 and 5.x": [
        sys.executable, "tests/acceptance/transformers_versions.py",
    ],
    "head: peak memory does not depend on t": [*PYTEST, "tests/unit/model"],
    "page in Chromium": [*PYTEST, "tests/system/test_page_chromium.py"],
    "serve: 32 clients": [sys.executable, "tests/acceptance/serve_load.py"],
    "sampling: definition, caches, batches": [*PYTEST, "tests/unit/sampling"],
    "benchmark: sampling": [sys.executable, "benchmarks/sampling.py"],
    "sampling: modes on a model that is sure of itself": [
        sys.executable, "tests/acceptance/sampling_trained.py",
    ],
    "infilling: lengths 1 to 64 of toy gaps with one right answer": [
        sys.executable, "tests/acceptance/infill_toy.py",
    ],
    "infilling: held-out functions, lengths given, wrong and found (about 25 minutes)": [
        sys.executable, "tests/acceptance/infill_functions.py",
    ],
    "kit for GPUs: checks, on a CPU the local half": [
        sys.executable, "-m", "benchmarks.gpu_kit.check",
    ],
    "kit for GPUs: speed and the plan's errors, on a CPU the local half": [
        sys.executable, "-m", "benchmarks.gpu_kit.bench",
    ],
    "plan: against published runs": [sys.executable, "tests/acceptance/plan_published.py"],
    "broken versions: which test catches which": [sys.executable, "tests/acceptance/mutations.py"],
    "data: megatron-core's bytes, whatever the way": [
        sys.executable, "tests/acceptance/data_bytes.py",
    ],
    "data: kill -9 at twenty moments": [sys.executable, "tests/acceptance/data_kills.py"],
    "data: peak memory at ten times the input": [
        sys.executable, "tests/acceptance/data_memory.py",
    ],
    "data: one worker and two": [sys.executable, "tests/acceptance/data_scaling.py"],
    "data: filters, duplicates, mixtures": [
        *PYTEST, "tests/unit/data/filters", "tests/unit/data/duplicates", "tests/unit/data/mixture",
        "tests/system/test_preprocess_mpi.py",
    ],
    "data: DALI's batches are torch's": [
        *PYTEST, "-rs", "tests/unit/data/test_dali_feed.py", "tests/system/test_pretrain_dali.py",
        "-m", "acceptance",
    ],
    "data: tokenizers, at length": [*PYTEST, "tests/unit/tokenizer", "-m", "acceptance"],
    "sft: ten thousand rows by the definition": [
        *PYTEST, "tests/unit/data/sft/test_stream.py", "tests/unit/data/infilling",
    ],
    "sft: what padding costs": [sys.executable, "tests/acceptance/sft_padding.py"],
    "sft: truncation on toy problems, five paired seeds (about 2 hours)": [
        sys.executable, "tests/acceptance/sft_truncation.py",
    ],
    "slurm: every script, faults and ends on two nodes": [
        *PYTEST, "-rs", "tests/system/test_slurm_pipeline.py", "tests/system/test_slurm_faults.py",
        "tests/system/test_slurm_library.py", "tests/system/test_slurm_preprocess.py",
    ],
    "slurm: preempted, killed, agents": [sys.executable, "tests/acceptance/slurm_runs.py"],
    "judge: attacks, refusals, an ordinary user": [
        *PYTEST, "-rs", "tests/unit/sandbox", "tests/system/test_sandbox.py",
        "tests/system/test_sandbox_denied.py", "tests/system/test_sandbox_user.py",
        "-m", "not acceptance",
    ],
    "harnesses: canonical solutions, 500 broken variants, lm_eval, kills (needs .venv-evaluation)": [
        sys.executable, "tests/acceptance/harnesses.py",
    ],
    "judge: ten thousand programs leave nothing": [
        sys.executable, "tests/acceptance/judge_many.py",
    ],
    "likelihood: bound, exact, chain, variance, choices": [
        sys.executable, "tests/acceptance/likelihood.py",
    ],
    "order: the classifier against a rule, 30 histories": [
        sys.executable, "tests/acceptance/order_labels.py",
    ],
    "benchmark: likelihood": [sys.executable, "benchmarks/likelihood.py"],
    "benchmark: judge": [sys.executable, "benchmarks/judge.py"],
    "benchmark: preprocessing": [sys.executable, "benchmarks/preprocess.py"],
    "benchmark: a blend's index": [sys.executable, "benchmarks/blend_index.py"],
    "benchmark: loader": [sys.executable, "benchmarks/loader.py"],
    "benchmark: CART": [sys.executable, "benchmarks/cart.py"],
    "benchmark: checkpoints against dd": [sys.executable, "benchmarks/checkpoints.py"],
    "benchmark: training against transformers": [sys.executable, "benchmarks/training.py"],
}  # fmt: skip


def commit() -> str:
    """The tree that is tested, marked where it has changes."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--", ".", ":!docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def run_check(command: list[str]) -> dict[str, Any]:
    """Run one check, showing its output; keep the last lines."""
    started = time.monotonic()
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONWARNINGS": "ignore",
    }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    code = process.wait()
    return {
        "passed": code == 0,
        "seconds": round(time.monotonic() - started, 1),
        "last_lines": lines[-25:],
    }


def main() -> int:
    """Run what has not passed yet; 0 if everything has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", help="checks whose name contains this")
    parser.add_argument("--again", action="store_true", help="run also what has passed")
    options = parser.parse_args()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    here = commit()
    for number, (name, command) in enumerate(CHECKS.items(), start=1):
        if options.only and options.only not in name:
            continue
        known = results.get(name, {})
        if known.get("passed") and known.get("commit") == here and not options.again:
            print(f"[{number}/{len(CHECKS)}] {name}: passed before, {known['seconds']} s")
            continue
        print(f"[{number}/{len(CHECKS)}] {name}", flush=True)
        results[name] = {"commit": here, "command": command[1:], **run_check(command)}
        write_json(RESULTS, results)
    failed = [name for name in CHECKS if not results.get(name, {}).get("passed")]
    print(
        f"{len(CHECKS) - len(failed)} passed, {len(failed)} failed"
        + "".join(f"\n  {n}" for n in failed)
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
