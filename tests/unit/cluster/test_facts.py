"""What a node says of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megatron_dream.cluster.facts import collect_facts, node_name, parse_gpus

TABLE = """\
NVIDIA H100 80GB HBM3, 570.124.06, 81559 MiB, 1980 MHz, 1755 MHz
NVIDIA H100 80GB HBM3, 570.124.06, 81559 MiB, 1980 MHz, 345 MHz
"""


def test_the_table_of_nvidia_smi() -> None:
    facts = parse_gpus(TABLE)
    assert facts["GPUs"] == "2 x NVIDIA H100 80GB HBM3" and facts["driver"] == "570.124.06"
    assert facts["present clock"] == "345 MHz to 1755 MHz"
    other = parse_gpus(TABLE.replace("81559", "40536", 1))
    assert other["GPU memory"] == "40536 MiB and 81559 MiB"
    assert parse_gpus("\n") == {"GPUs": "none"}


def test_a_tool_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Failed to initialize NVML' >&2\nexit 255\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("DREAM_LOCAL", str(tmp_path / "nowhere"))
    facts = collect_facts()
    assert facts["GPUs"] == "nvidia-smi: Failed to initialize NVML"
    assert facts["free disk"].endswith("nowhere is not there")
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_name_that_slurm_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    assert node_name() == "n7"
