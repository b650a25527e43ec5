"""Responses of the training model itself, by the sampler that everything else uses.

Prompts of like length are decoded together, all responses of a prompt in one batch. What a response draws
depends on (seed, step, its prompt's ordinal in the run, its number) alone: not on the batch, the layout or
what ran before. Every rank of a tensor- and pipeline-parallel group calls this with the same prompts and
gets the same tokens.

Shapes: G responses of a prompt, L tokens of a response.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config.schema import RlConfig
from ..device import current_device
from ..sampling.canvas import pad_left
from ..sampling.generation import diffusion_generate
from ..sampling.sampling_config import SamplingConfig
from ..tokenizer.base import Tokenizer

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Rollout:
    """All responses of one prompt.

    Attributes:
        place: of the prompt among those that were asked for.
        tokens_GL: int32.
        opened_GL: int32, the step in which each token opened.
    """

    place: int
    tokens_GL: Integers
    opened_GL: Integers


def rollout_config(rl: RlConfig, tokenizer: Tokenizer, **changes: Any) -> SamplingConfig:
    """How rollouts are made."""
    options: dict[str, Any] = {
        "max_new_tokens": rl.response_length,
        "steps": rl.steps or rl.response_length,
        "alg": rl.alg,
        "temperature": rl.temperature,
        "top_p": rl.top_p if rl.top_p < 1.0 else None,
        "threshold": rl.threshold,
        "entropy_bound": rl.entropy_bound,
        "block_length": rl.block_length or rl.response_length,
        "cache": rl.cache,
        "num_return_sequences": rl.group_size,
        "mask_token_id": tokenizer.mask_id,
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "num_tokens": tokenizer.vocab_size,
        "output_history": True,
    }
    return SamplingConfig(**{**options, **changes})


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's rollouts."""
    digest = hashlib.sha256(f"{seed}/rollout/{step}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def make_rollouts(
    model: Any,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    config: SamplingConfig,
    *,
    seed: int,
    rows: int,
) -> Iterator[Rollout]:
    """Responses to each prompt, as batches of them are finished; long prompts come first.

    Args:
        model: in the sampler's sense.
        prompts: token ids.
        numbers: their ordinals in the run: what their draws depend on.
        config: ``rollout_config``'s.
        seed: ``step_seed``'s.
        rows: responses that are decoded together at most; all of one prompt at least.
    """
    copies = config.num_return_sequences
    size = max(1, rows // copies)
    order = sorted(range(len(prompts)), key=lambda k: (-len(prompts[k]), k))
    for first in range(0, len(order), size):
        places = order[first : first + size]
        ids_RP, real_RP = pad_left(
            [list(prompts[k]) for k in places], config.pad_token_id or 0, current_device()
        )
        output = diffusion_generate(
            model,
            ids_RP,
            None if bool(real_RP.all()) else real_RP,
            config=config,
            row_ids=[numbers[k] for k in places],
            row_seeds=[seed] * len(places),
        )
        assert output.history is not None
        tokens = output.sequences[:, output.prompt_length :].cpu().numpy().astype(np.int32)
        opened = output.history.opened_step[:, output.prompt_length :].to(torch.int32).numpy()
        for index, place in enumerate(places):
            mine = slice(index * copies, (index + 1) * copies)
            yield Rollout(place, tokens[mine], opened[mine])
