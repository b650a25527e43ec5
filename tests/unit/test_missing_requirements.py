"""What the container's build installs: the locked versions of what the image lacks, and nothing of CUDA."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load() -> object:
    spec = importlib.util.spec_from_file_location(
        "missing_requirements", ROOT / "tools/missing_requirements.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_there_stays_but_for_what_must_be_locked() -> None:
    tool = load()
    lines = [
        "# comment", "", "torch==2.13.0", "triton==3.9", "nvidia-nccl-cu12==2.27", "numpy==2.4.6  # data",
        "huggingface_hub==2.4.0", "megatron-core==0.16.1", "orjson==3.1", "transformers==5.23.0",
    ]  # fmt: skip
    installed = {
        "numpy": "1.26.4",
        "torch": "2.10.0a0",
        "transformers": "5.23.0",
        "huggingface-hub": "0.36",
    }
    found = tool.missing(lines, installed)  # type: ignore[attr-defined]
    assert found == ["huggingface_hub==2.4.0", "megatron-core==0.16.1", "orjson==3.1"]


def test_every_locked_name_is_in_the_lock_file() -> None:
    tool = load()
    lines = (ROOT / "requirements/lock.txt").read_text().splitlines()
    everything = {tool.canonical(pin.partition("==")[0]) for pin in tool.missing(lines, {})}  # type: ignore[attr-defined]
    assert tool.LOCKED <= everything  # type: ignore[attr-defined]
    assert not {name for name in everything if name.startswith(("torch", "nvidia-"))}
