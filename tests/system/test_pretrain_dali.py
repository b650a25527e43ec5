"""``data.loader: dali`` from the command line: the same run as with torch's loader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


@pytest.mark.acceptance
def test_the_same_losses_as_with_torch(config_file: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "nvidia.dali", reason="needs DALI: pip install 'megatron-dream[dali]'", exc_type=ImportError
    )
    # DALI need not be in the environment; this process found it
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    found = []
    for loader in ("torch", "dali"):
        run = tmp_path / loader
        words = [sys.executable, "-m", "megatron_dream", "pretrain", "--config", str(config_file)]
        words += ["--checkpoint.run_folder", str(run), "--training.train_steps", "4"]
        words += ["--data.num_workers", "1", "--data.loader", loader]
        result = subprocess.run(
            words,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        found.append(losses(run))
    assert len(found[0]) == 4 and found[0] == found[1]
