"""A checkpoint as a model that the sampler can ask: one process, no export needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import parallel
from ..config.schema import ModelConfig, Objective, ParallelConfig, TrainingConfig
from ..errors import CheckpointError
from ..model.build import build_model
from ..model.states import sampler_logits, sampler_states
from ..sampling.cache import KeyValueCache
from ..tokenizer.base import Tokenizer, check_vocab
from ..tokenizer.load import load_tokenizer
from .load import load_weights
from .metadata import (
    CheckpointMetadata,
    read_metadata,
    refuse_without_shift,
    resolve_checkpoint,
)


@dataclass
class CheckpointModel:
    """The sampler's model interface on a megatron-core model."""

    model: Any
    metadata: CheckpointMetadata
    tokenizer: Tokenizer | None

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, S, V], unshifted. Rotary positions are relative: ``position_ids`` change nothing."""
        key_mask_BS = None if attention_mask is None else attention_mask.bool()
        states_BSH = sampler_states(self.model, input_ids, key_mask_BS)
        logits_NV = sampler_logits(self.model, states_BSH.flatten(0, 1))
        return logits_NV.view(*input_ids.shape, -1)

    __call__ = forward

    @property
    def takes_static_cache(self) -> bool:
        """Whether a pass can be recorded (sampling/cache.py): where no other process takes part in it."""
        groups = self.model.pg_collection
        return bool(groups.tp.size() == 1 and groups.pp.size() == 1)

    def sampler_states(
        self,
        input_ids_BQ: Tensor,
        key_mask_BS: Tensor | None,
        position_ids_BQ: Tensor | None,
        cache: KeyValueCache | None = None,
        start: int = 0,
        low: int = 0,
        high: int | None = None,
    ) -> Tensor:
        """Hidden states [B, high - low, H] (sampling/cache.py: StatesModel)."""
        states = sampler_states(self.model, input_ids_BQ, key_mask_BS, cache, start)
        return states[:, low:high]

    def sampler_logits(self, states_NH: Tensor) -> Tensor:
        """Logits [N, V] of some of them."""
        return sampler_logits(self.model, states_NH)


def find_tokenizer(metadata: CheckpointMetadata, given: Path | str | None) -> Tokenizer | None:
    """The tokenizer a checkpoint was made with: the given one, or where the run found it.

    Returns None where none was given and the run's is gone.

    Raises:
        TokenizerError: it cannot be read, or is another than the model's.
    """
    path = given
    if path is None and metadata.tokenizer_path and Path(metadata.tokenizer_path).exists():
        path = metadata.tokenizer_path
    if path is None:
        return None
    tokenizer = load_tokenizer(path)
    check_vocab(
        tokenizer,
        metadata.model["vocab_size"],
        mask_token_id=metadata.mask_token_id,
        fingerprint=metadata.tokenizer_fingerprint,
    )
    return tokenizer


def load_for_sampling(
    path: Path | str, tokenizer: Path | str | None = None, *, accepts_autoregressive: bool = False
) -> CheckpointModel:
    """Load a checkpoint's weights in fp32 into one process.

    Args:
        path: checkpoint or run folder.
        tokenizer: default: where the run found it, if it is still there and the same.
        accepts_autoregressive: load weights that were never adapted too; ``forward`` without a mask then
            attends to the left only, as they were trained. They cannot be sampled.

    Raises:
        CheckpointError: missing, altered, or no model that attends in both directions.
    """
    folder = resolve_checkpoint(path)
    metadata = read_metadata(folder)
    if metadata.objective == "ar" and not accepts_autoregressive:
        raise CheckpointError(
            f"{folder} is an autoregressive model, which cannot open masks; adapt it first "
            f"(pretrain with checkpoint.init_from) or name another checkpoint"
        )
    refuse_without_shift(folder, metadata)
    found = find_tokenizer(metadata, tokenizer)
    layout, training = ParallelConfig(), TrainingConfig(precision="fp32", compile="off")
    ranks = parallel.start(layout)
    # The sampler's masks are arbitrary, which only the local attention takes.
    shape = ModelConfig(**{**metadata.model, "layer_spec": "local"})
    objective: Objective = "ar" if metadata.objective == "ar" else "diffusion"
    chunks = build_model(shape, layout, training, ranks, objective=objective, draws_weights=False)
    load_weights(folder, chunks, ranks)
    return CheckpointModel(chunks[0].eval(), metadata, found)
