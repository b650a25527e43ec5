"""Random prompts and answers, and the sft stream over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from megatron_dream.config.schema import DataConfig, DiffusionConfig, SftConfig
from megatron_dream.data.sft.stream import SftStream

MASK, PAD, IM_END, LIMIT = 999, 900, 901, 40


class Samples:
    """Random prompts and answers by number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 1 << 20

    def lengths(self, n: int) -> tuple[int, int]:
        generator = np.random.default_rng([self.seed, n])
        return int(generator.integers(1, 15)), int(generator.integers(1, 25))

    def __getitem__(self, n: int) -> tuple[Any, Any, int]:
        prompt, response = self.lengths(n)
        generator = np.random.default_rng([self.seed, n, 1])
        tokens = generator.integers(0, 900, prompt + response).astype(np.int32)
        return tokens[:prompt], tokens[prompt:], n % 3


def stream_of(
    seed: int = 0,
    group_size: int = 12,
    diffusion: DiffusionConfig | None = None,
    samples: Any = None,
    **sft: Any,
) -> SftStream:
    config = SftConfig(**sft)
    return SftStream(
        samples or Samples(seed),
        DataConfig(sequence_length=LIMIT, seed=seed),
        diffusion or DiffusionConfig(),
        config,
        mask_id=MASK,
        pad_id=PAD,
        end_id=PAD if config.response_end == "endoftext" else IM_END,
        group_size=group_size,
    )
