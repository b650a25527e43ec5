"""A small corpus, tokenizer and token files that commands can be run on, made once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.slurm_cluster import SlurmCluster, missing_programs
from tests.warm import WarmStarter, environment

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def command_line(*words: str, processes: int = 1) -> list[str]:
    """``megatron-dream WORDS``, under torchrun for several processes."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += [
            "--master_port",
            "0",
            "--rdzv_backend",
            "c10d",
            "--rdzv_endpoint",
            "localhost:0",
        ]
    return [*launcher, "-m", "megatron_dream", *words]


@pytest.fixture(scope="session")
def run_command(warm: WarmStarter) -> Command:
    """Run ``megatron-dream`` as a user would; checks the exit code unless told."""

    def run(*words: str, processes: int = 1, code: int | None = 0) -> Any:
        if processes == 1:
            result = warm.run("megatron_dream", *words)
        else:
            result = subprocess.run(
                command_line(*words, processes=processes),
                env=environment(),
                capture_output=True,
                text=True,
                timeout=300,
            )
        if code is not None:
            assert result.returncode == code, f"{words}\n{result.stdout}\n{result.stderr}"
        return result

    return run


@pytest.fixture(scope="session")
def token_data(tmp_path_factory: pytest.TempPathFactory, run_command: Command) -> Path:
    """A folder with tokenizer ``t.model`` and token files ``train`` and ``valid``."""
    folder = tmp_path_factory.mktemp("tokens")
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    for name, files in (("train", sources[:60]), ("valid", sources[60:70])):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as stream:
            for file in files:
                text = file.read_text(encoding="utf-8", errors="replace")
                stream.write(json.dumps({"text": text}) + "\n")
    model = str(folder / "t.model")
    run_command(
        "tokenizer", "train", "--input", str(folder / "train.jsonl"), "--vocab-size", "600",
        "--output", model,
    )  # fmt: skip
    for name in ("train", "valid"):
        run_command(
            "preprocess", "--input", str(folder / f"{name}.jsonl"), "--output-prefix",
            str(folder / name), "--tokenizer", model, "--append-eod",
        )  # fmt: skip
    return folder


@pytest.fixture
def config_file(token_data: Path, tmp_path: Path) -> Path:
    """A configuration that trains in seconds; its run folder is ``tmp_path/run``."""
    config = {
        "model": {
            "num_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "ffn_hidden_size": 128,
            "tie_word_embeddings": True,
        },
        "tokenizer": {"path": str(token_data / "t.model")},
        "data": {
            "train": [{"prefix": str(token_data / "train")}],
            "valid": [{"prefix": str(token_data / "valid")}],
            "sequence_length": 64,
            "num_workers": 0,
            "cache_folder": str(tmp_path / "cache"),
        },
        "optimizer": {"lr": 1e-3},
        "training": {
            "train_steps": 20,
            "micro_batch_size": 2,
            "global_batch_size": 8,
            "precision": "fp32",
            "eval_samples": 64,
        },
        "checkpoint": {"run_folder": str(tmp_path / "run"), "save_interval": 10},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """A Slurm of two nodes, started once; jobs run this checkout with this interpreter, on the CPU."""
    if missing := missing_programs():
        pytest.skip(f"needs {', '.join(missing)}: apt install slurm-wlm munge")
    with SlurmCluster() as running:
        own = {name: value for name, value in environment().items() if name not in ("PATH",)}
        own |= {"DREAM_PYTHON": sys.executable, "DREAM_SITE": os.devnull}
        running.environment |= own | {"SLURM_CONF": running.environment["SLURM_CONF"]}
        yield running
