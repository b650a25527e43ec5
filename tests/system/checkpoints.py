"""Comparing the checkpoints of two runs."""

from __future__ import annotations

from pathlib import Path

import torch

from megatron_dream.checkpoint.metadata import resolve_checkpoint
from megatron_dream.checkpoint.tensors import TensorReader


def assert_equal_checkpoints(first: Path, second: Path) -> None:
    readers = [
        TensorReader(resolve_checkpoint(folder / "checkpoints")) for folder in (first, second)
    ]
    assert readers[0].names() == readers[1].names()
    assert any("exp_avg_sq" in name for name in readers[0].names())
    for name in readers[0].names():
        assert torch.equal(readers[0].read(name), readers[1].read(name)), name
