"""``megatron-dream sweep`` with a real model: what it measures is what ``eval`` measures."""

from __future__ import annotations

import json

from megatron_dream.cli import main
from megatron_dream.evaluation.harness.records import read_samples
from tests.system.tiny_export import make_tiny_export

PROBLEM = {
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
YAML = """\
title: Caches
question: What does a cache change?
kind: sampling
models: {{tiny: {folder}/model/export}}
benchmark: humaneval
style: base
data: {folder}/data
batch_size: 3
seed: 5
settings: {{max_new_tokens: 16, temperature: 0.4, top_p: 0.9, alg: entropy}}
vary:
  - name: decoding
    values:
      - {{label: whole canvas}}
      - {{label: prefix cache, cache: prefix, block_length: 4}}
plot: {{x: flops, y: [pass@1, tokens_per_pass], series: decoding, dots: true}}
isolation: process
workers: 1
"""


def test_a_sweep_measures_what_eval_measures(tmp_path, capsys):
    make_tiny_export(tmp_path / "model" / "export")
    (tmp_path / "data").mkdir()
    lines = [json.dumps({**PROBLEM, "task_id": f"HumanEval/{n}"}) + "\n" for n in range(3)]
    (tmp_path / "data" / "HumanEval.jsonl").write_text("".join(lines))
    file, out = tmp_path / "caches.yaml", tmp_path / "out"
    file.write_text(YAML.format(folder=tmp_path))
    assert main(["sweep", str(file), "--output", str(out)]) == 0
    told = json.loads((out / "caches.json").read_text())
    whole, cached = told["rows"]
    assert told["machines"][0]["cores"] >= 1 and (out / "caches.png").exists()
    assert cached["flops"] < whole["flops"] and whole["seconds"] > 0
    assert (cached["block_length"], whole["steps"], whole["tasks"]) == (4, 16, 3)
    words = [
        "eval", str(tmp_path / "model" / "export"), "--suite", "humaneval", "--style", "base",
        "--data", str(tmp_path / "data"), "--output", str(tmp_path / "eval"), "--seed", "5",
        "--max-new-tokens", "16", "--temperature", "0.4", "--batch-size", "3",
        "--isolation", "process", "--workers", "1",
    ]  # fmt: skip
    assert main(words) == 0
    (folder,) = (out / "cells").glob("tiny-tiny-whole-canvas-*")
    of_eval = read_samples(tmp_path / "eval" / "humaneval")
    of_sweep = read_samples(folder)
    assert len(of_eval) == 3
    for key, sample in of_eval.items():
        assert {**sample, "seconds": 0} == {**of_sweep[key], "seconds": 0}
