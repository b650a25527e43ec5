"""A small trained model for the benchmarks of sampling, and a task that can be judged.

    python benchmarks/programs.py [--steps 800] [--work work/programs]

A document says in words what a function over a list returns, and writes it out; words and code correspond one
to one, so that a program is right or wrong, and some of its tokens (names, brackets) are sure long before
others. A model of 0.6M parameters is trained on such documents from random weights with the product's own
commands and exported; the items for ``sampling_quality.py --programs`` are documents that training has not
seen. Some ten minutes.
"""

from __future__ import annotations

import argparse
import itertools
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
NUMBERS = range(-50, 50)
NUM_ITEMS, NUM_VALID, VOCABULARY = 2_000, 500, 512


def documents() -> list[tuple[str, str]]:
    """What is asked for and the code, all there are, in a fixed random order."""
    made = []
    for result, value, test, number in itertools.product(RESULTS, VALUES, TESTS, NUMBERS):
        body = (
            f"def f(xs):\n    found = [{VALUES[value]} for x in xs if x {TESTS[test]} {number}]\n"
            f"    return {RESULTS[result]}\n"
        )
        made.append((f"# {result} of {value} {test} {number}\n", body))
    random.Random(0).shuffle(made)
    return made


def write_corpus(work: Path) -> None:
    """Documents for training, and items that are none of them."""
    made = documents()
    items = [{"prompt": head, "answer": body} for head, body in made[:NUM_ITEMS]]
    texts = [{"text": head + body} for head, body in made[NUM_ITEMS:]]
    for name, lines in (
        ("items", items), ("valid", texts[:NUM_VALID]), ("train", texts[NUM_VALID:])
    ):  # fmt: skip
        content = "".join(json.dumps(line) + "\n" for line in lines)
        (work / f"{name}.jsonl").write_text(content, encoding="utf-8")


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
  sequence_length: 128
  num_workers: 0
diffusion: {{objective: diffusion, weight: uniform}}
optimizer: {{lr: 2.0e-3, lr_warmup_fraction: 0.05}}
training: {{train_steps: {steps}, micro_batch_size: 32, global_batch_size: 32, precision: fp32,
  eval_interval: {steps}, eval_samples: 64}}
checkpoint: {{run_folder: {run}}}
""",
        encoding="utf-8",
    )
    return [
        [*dream, "tokenizer", "train", "--input", f"{work}/train.jsonl", "--vocab-size",
         str(VOCABULARY), "--output", tokenizer],
        *preprocess,
        [*dream, "pretrain", "--config", str(config)],
        [*dream, "export-hf", run, str(work / "export"), "--dtype", "float32"],
    ]  # fmt: skip


def main() -> None:
    """Make all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "programs")
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    write_corpus(options.work)
    for command in commands(options.work, options.steps):
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
