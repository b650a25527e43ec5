"""Jobs of test_layouts.py, run by the ranks of the worker pool: one model, one batch, any layout."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from megatron_dream import parallel
from megatron_dream.config.schema import (
    DiffusionConfig,
    ModelConfig,
    ParallelConfig,
    RunConfig,
)

SEQUENCE, GLOBAL_BATCH, VOCAB = 32, 8, 101


@dataclasses.dataclass
class Case:
    """One configuration of a training step."""

    parallel: dict[str, Any] = dataclasses.field(default_factory=dict)
    diffusion: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: str = "plain"  # plain | documents | padding | one_token | empty
    micro_batch_size: int = 1
    steps: int = 0
    seed: int = 0


def run_config(case: Case) -> RunConfig:
    model = {
        "num_layers": 4,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "ffn_hidden_size": 48,
        "vocab_size": VOCAB,
        "layer_spec": "local",
        "head_chunk_rows": 8,
        "init_method_std": 0.2,
        **case.model,
    }
    config = RunConfig(
        model=ModelConfig(**model),
        parallel=ParallelConfig(**case.parallel),
        diffusion=DiffusionConfig(**case.diffusion),
    )
    config.training.precision = "fp32"
    config.training.train_steps = max(case.steps, 2)
    config.training.micro_batch_size = case.micro_batch_size
    config.training.global_batch_size = GLOBAL_BATCH
    config.optimizer.lr = 1e-3
    config.optimizer.lr_warmup_fraction = 0.0
    for section in ("training", "optimizer"):
        for name, value in getattr(case, section).items():
            setattr(getattr(config, section), name, value)
    return config


class RandomRows:
    """Rows through the real data path (diffusion/rows.py), over random tokens."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def segments(self, ordinal: int) -> tuple[list[int], int]:
        """(segment lengths, dead tokens at the end) of a row."""
        if self.case.rows == "documents":
            return [5 + ordinal % 7, 9, SEQUENCE - 14 - ordinal % 7], 0
        if self.case.rows == "padding":
            dead = 4 + 3 * (ordinal % 5)
            return [SEQUENCE - dead], dead
        if self.case.rows == "one_token" and ordinal % 3 == 0:
            return [1], SEQUENCE - 1
        return [SEQUENCE], 0

    def __getitem__(self, ordinal: int) -> Any:
        from megatron_dream.data.stream import make_row

        generator = torch.Generator().manual_seed(1000 * self.case.seed + ordinal)
        tokens = torch.randint(0, VOCAB - 1, (SEQUENCE,), generator=generator).numpy()
        lengths, dead = self.segments(ordinal)
        return make_row(self, tokens, lengths, dead, ordinal)
