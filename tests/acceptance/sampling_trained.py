"""The sampler's modes on a model that is sure of itself: what each costs in right answers, and its speed.

A tiny model learns toy problems whose answers have any length up to 62 tokens, by ``megatron-dream
pretrain`` and ``sft``, and is exported. Then ``benchmarks/sampling_quality.py``: 2,000 held-out problems in
every mode, paired with the exact one, and full recomputation with all logits against every mode, one
problem at a time.

    python tests/acceptance/sampling_trained.py [--steps 2000]     about half an hour on two quiet cores

The model is kept under ``--work``: another call measures it again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import data_runs as runs  # noqa: E402
import truncation_training as training  # noqa: E402
from truncation_training import Setup  # noqa: E402

QUALITY = [sys.executable, str(ROOT / "benchmarks" / "sampling_quality.py")]
CANVAS, BLOCK = 64, 32
WIDTH = 96  # a prompt and the canvas
LONGEST = 62


def trained(folder: Path, setup: Setup, steps: int) -> Path:
    """The exported folder, made unless it is there."""
    training.prepare(folder, setup)
    export = folder / f"export-{steps}"
    if not export.exists():
        fields = ["--sft.truncation", "off", "--sft.pad", "max"]
        fields += ["--checkpoint.init_from", f"{folder}/pretrained"]
        seconds = training.train(folder, "sft", folder / "run", steps, *fields)
        print(f"{steps} steps of sft: {seconds:.0f} s", flush=True)
        runs.run([*training.DREAM, "export-hf", f"{folder}/run", str(export), "--dtype", "float32"])
    return export


def main() -> int:
    """0 where no mode costs more than a point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="of sft")
    parser.add_argument("--pretrain-steps", type=int, default=600)
    parser.add_argument("--items", type=int, default=2000, help="problems, held out")
    parser.add_argument(
        "--speed", type=int, default=20, help="problems of the comparison of speeds"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "sampling_trained")
    options = parser.parse_args()
    setup = Setup(WIDTH, options.items, options.pretrain_steps, LONGEST, share_of_long=1.0)
    export = trained(options.work.resolve(), setup, options.steps)
    words = [*QUALITY, str(export), "--problems", str(options.work / "held_out.jsonl")]
    words += ["--items", str(options.items), "--new", str(CANVAS), "--block", str(BLOCK)]
    subprocess.run([*words, "--speed", str(options.speed)], check=True)
    return subprocess.run(words).returncode


if __name__ == "__main__":
    sys.exit(main())
