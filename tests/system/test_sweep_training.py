"""A training sweep on the real stages: an autoregressive start, then diffusion without the shift."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Command = Callable[..., Any]


def test_an_arm_of_two_stages(config_file: Path, tmp_path: Path, run_command: Command) -> None:
    """FLOPs of both stages are counted, and what was trained without the shift is not sampled."""
    config = yaml.safe_load(config_file.read_text())
    config["training"] |= {"train_steps": 2, "eval_interval": 1, "eval_samples": 8}
    config["data"]["num_workers"] = 0
    config["checkpoint"] = {"run_folder": "none"}
    config_file.write_text(yaml.safe_dump(config))
    stage = {"stage": "pretrain", "config": str(config_file)}
    later = {"diffusion.shift": False, "checkpoint.init_override": True}
    later |= {"diffusion.weight": "cart_shuffled"}
    first = {**stage, "set": {"diffusion.objective": "ar"}}
    fields = {
        "title": "t", "question": "q", "kind": "training", "seeds": [0], "compare_to": "AR start",
        "arms": [{"label": "AR start", "stages": [first, {**stage, "set": later}]}], "keep": True,
        "plot": {"x": "flops_total", "y": "cross_entropy", "series": "arm"},
    }  # fmt: skip
    file, output = tmp_path / "start.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(fields))
    run_command("sweep", str(file), "--output", str(output))
    with open(output / "start.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["1", "2"]
    cell = next((output / "cells").iterdir())
    ar, last = (
        json.loads((cell / f"{name}.json").read_text()) for name in ("0-pretrain", "1-pretrain")
    )
    assert float(rows[1]["flops_total"]) == ar["flops"] + last["flops"]
    assert 0 < float(rows[1]["cross_entropy"]) < 20 and (output / "start.png").stat().st_size
    assert "AR start ends at" in json.loads((output / "start.json").read_text())["paragraph"]
    refused = run_command("sample", str(cell / "1-pretrain"), "--prompt", "x", code=2)
    assert "diffusion.shift" in refused.stderr
