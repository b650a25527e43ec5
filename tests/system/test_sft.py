"""``prepare-sft`` and ``sft`` as a user types them: rows of their own lengths, two processes, resuming."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Command = Callable[..., Any]


def losses(run: Path) -> list[float]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [e["loss"] for e in map(json.loads, lines) if e["event"] == "step"]


@pytest.fixture(scope="module")
def answers(
    token_data: Path, tmp_path_factory: pytest.TempPathFactory, run_command: Command
) -> Path:
    """A folder with prepared sums, ``a`` and ``a_valid``."""
    folder, draw = tmp_path_factory.mktemp("answers"), random.Random(0)
    with open(folder / "a.jsonl", "w") as stream:
        for _ in range(300):
            values = [draw.randrange(100) for _ in range(draw.randrange(1, 9))]
            record = {
                "prompt": f"Repeat {len(values)}: {values}",
                "response": " ".join(map(str, values)),
            }
            stream.write(json.dumps(record) + "\n")
        stream.write('{"prompt": 3, "response": "x"}\n')
    shown = run_command(
        "prepare-sft", "--input", str(folder / "a.jsonl"), "--output-prefix", str(folder / "a"),
        "--tokenizer", str(token_data / "t.model"), "--max-length", "120", "--valid-share", "0.1",
    )  # fmt: skip
    assert "1 " in shown.stdout + shown.stderr
    reject = json.loads((folder / "a.rejects.jsonl").read_text().splitlines()[0])
    assert "a.jsonl" in json.dumps(reject) and 301 in (
        reject.get("line"),
        reject.get("record", 0) + 1,
    )
    return folder


@pytest.fixture
def sft_config(config_file: Path, answers: Path) -> Path:
    config = yaml.safe_load(config_file.read_text())
    config["data"] |= {
        "train": [{"prefix": str(answers / "a")}],
        "valid": [{"prefix": str(answers / "a_valid")}],
        "sequence_length": 120,
    }
    config["training"] |= {"train_steps": 6, "eval_interval": 6, "eval_samples": 16}
    config["checkpoint"]["save_interval"] = 3
    config_file.write_text(yaml.safe_dump(config))
    return config_file


def test_a_pipeline_trains_on_rows_of_their_own_lengths(
    sft_config: Path, tmp_path: Path, run_command: Command
) -> None:
    """Two stages that tell one another widths, and loader workers: one process's losses. Then what follows
    a run: refusals, going on with another width, export, an answer.
    """
    train = ["sft", "--config", str(sft_config), "--checkpoint.run_folder"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_command(*train, str(one))
    run_command(*train, str(two), "--parallel.pipeline_model_parallel_size", "2",
                "--data.num_workers", "1", processes=2)  # fmt: skip
    assert losses(two) == pytest.approx(losses(one), rel=1e-4) and len(set(losses(one))) == 6
    more = ["--training.train_steps", "8"]
    refused = run_command(*train, str(one), *more, "--sft.truncation", "random", code=2).stderr
    assert "sft.truncation is random_with_input_pad there and random here" in refused
    run_command(*train, str(one), *more, "--sft.width", "max")
    assert len(losses(one)) == 8

    exported = str(tmp_path / "exported")
    run_command("export-hf", str(one), exported, "--dtype", "float32")
    run_command("sample", exported, "--chat", "--prompt", "Repeat 2: [5, 7]",
                "--max-new-tokens", "8", "--output", str(tmp_path / "s.jsonl"))  # fmt: skip
    assert (tmp_path / "s.jsonl").read_text().count("\n") == 1


def test_token_files_of_preprocess_are_refused(config_file: Path, run_command: Command) -> None:
    refused = run_command("sft", "--config", str(config_file), code=2).stderr
    assert "prepare-sft" in refused and refused.count("\n") == 1
