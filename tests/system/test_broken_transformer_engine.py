"""The CPU path beside a Transformer Engine whose import raises RuntimeError, as without cuDNN it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.warm import environment

# One process for all verbs: each would spend seconds on imports of its own.
VERBS = """
import sys
from megatron_dream.cli import main

config, run = sys.argv[1:]
short = ["--training.train_steps", "3", "--training.eval_interval", "3"]
codes = [
    main(["pretrain", "--config", config, *short]),
    main(["sample", run, "--prompt", "def f(", "--max-new-tokens", "4", "--steps", "4"]),
    main(["doctor", "--json"]),
]
assert "transformer_engine" not in sys.modules
raise SystemExit(max(codes))
"""


def test_training_sampling_and_doctor_go_on(config_file: Path, tmp_path: Path) -> None:
    package = tmp_path / "stub" / "transformer_engine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('no cuDNN here')")
    own = environment()
    own["PYTHONPATH"] = os.pathsep.join([str(package.parent), own["PYTHONPATH"]])
    imported = [sys.executable, "-c", "import transformer_engine"]
    broken = subprocess.run(imported, env=own, capture_output=True, text=True, timeout=120)
    assert "no cuDNN here" in broken.stderr  # the stub is what Python finds
    run = tmp_path / "run"
    result = subprocess.run(
        [sys.executable, "-c", VERBS, str(config_file), str(run)],
        env=own,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in records if one["event"] == "step"] == [1, 2, 3]
    doctor = json.loads(result.stdout[result.stdout.index("{") :])
    rows = {row["name"]: row for row in doctor["rows"]}
    assert "no cuDNN here" in rows["Transformer Engine"]["version"]
