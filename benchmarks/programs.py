"""A small trained model for the benchmarks of sampling, and a task that can be judged.

    python benchmarks/programs.py [--steps 1500] [--work work/programs]

A document names two functions over a list in words and then writes them out; words and code correspond one
to one, so that a program is right or wrong, and some of its tokens (names, brackets) are sure long before
others. Two million tokens of such documents are made, a model of 0.6M parameters is trained from random
weights with the product's own commands (two processes) and exported; the items for
``sampling_quality.py --programs`` are documents that training has not seen. Some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VALUES = {"values": "x", "doubled values": "x * 2", "squared values": "x * x", "negated values": "-x",
          "halved values": "x // 2", "values plus one": "x + 1"}  # fmt: skip
TESTS = {"over": ">", "under": "<", "at least": ">=", "at most": "<=", "other than": "!="}
RESULTS = {
    "sum": "sum(found)",
    "count": "len(found)",
    "largest": "max(found, default=0)",
    "smallest": "min(found, default=0)",
    "first": "found[0] if found else 0",
    "last": "found[-1] if found else 0",
    "mean": "sum(found) / len(found) if found else 0",
}
NAMES = "alpha beta gamma delta score total pick scan fold tally gauge probe".split()
NUM_DOCUMENTS, NUM_ITEMS, VOCABULARY = 20_000, 2_000, 512


def program(draw: random.Random) -> tuple[str, str]:
    """What is asked for, and the code."""
    heads, bodies = [], []
    for name in draw.sample(NAMES, 2):
        result, value, test = (draw.choice(sorted(c)) for c in (RESULTS, VALUES, TESTS))
        number = draw.randint(0, 20)
        heads.append(f"# {name}: {result} of {value} {test} {number}\n")
        bodies.append(
            f"def {name}(xs):\n    found = [{VALUES[value]} for x in xs if x {TESTS[test]} {number}]\n"
            f"    return {RESULTS[result]}\n"
        )
    return "".join(heads), "".join(bodies)


def write_corpus(work: Path) -> None:
    """Documents for training, and items that are none of them."""
    draw = random.Random(0)
    seen = [program(draw) for _ in range(NUM_DOCUMENTS)]
    lines = [json.dumps({"text": head + body}) + "\n" for head, body in seen]
    (work / "train.jsonl").write_text("".join(lines[:-500]), encoding="utf-8")
    (work / "valid.jsonl").write_text("".join(lines[-500:]), encoding="utf-8")
    known, items = {head for head, _ in seen}, []
    while len(items) < NUM_ITEMS:
        head, body = program(draw)
        if head not in known:
            items.append(json.dumps({"prompt": head, "answer": body}) + "\n")
    (work / "items.jsonl").write_text("".join(items), encoding="utf-8")


def commands(work: Path, steps: int) -> list[list[str]]:
    """From the corpus to an exported folder."""
    dream = [sys.executable, "-m", "megatron_dream"]
    tokenizer, run = str(work / "tokenizer.model"), str(work / "run")
    preprocess = [
        [*dream, "preprocess", "--input", f"{work}/{name}.jsonl", "--output-prefix", f"{work}/{name}",
         "--tokenizer", tokenizer, "--append-eod"]
        for name in ("train", "valid")
    ]  # fmt: skip
    config = work / "config.yaml"
    config.write_text(
        f"""model: {{num_layers: 3, hidden_size: 128, num_attention_heads: 4, num_query_groups: 2,
  ffn_hidden_size: 352, max_position_embeddings: 1024, tie_word_embeddings: true}}
tokenizer: {{path: {tokenizer}}}
data:
  train: [{{prefix: {work}/train}}]
  valid: [{{prefix: {work}/valid}}]
  sequence_length: 256
  num_workers: 0
diffusion: {{objective: diffusion}}
optimizer: {{lr: 3.0e-3, lr_warmup_fraction: 0.05}}
training: {{train_steps: {steps}, micro_batch_size: 8, global_batch_size: 16, precision: fp32,
  eval_interval: {steps}, eval_samples: 64}}
checkpoint: {{run_folder: {run}}}
""",
        encoding="utf-8",
    )
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    return [
        [*dream, "tokenizer", "train", "--input", f"{work}/train.jsonl", "--vocab-size",
         str(VOCABULARY), "--output", tokenizer],
        *preprocess,
        [*torchrun, "-m", "megatron_dream", "pretrain", "--config", str(config)],
        [*dream, "export-hf", run, str(work / "export"), "--dtype", "float32"],
    ]  # fmt: skip


def main() -> None:
    """Make all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "programs")
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    write_corpus(options.work)
    for command in commands(options.work, options.steps):
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
