"""A Dream folder of random weights, made without megatron-core and without training."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from megatron_dream.config.schema import ModelConfig
from megatron_dream.files import write_json
from megatron_dream.hf.export import code_files
from megatron_dream.hf.model_config import dream_config_json
from megatron_dream.hf.safetensors_writer import write_safetensors
from megatron_dream.hf.tensor_map import huggingface_shapes
from megatron_dream.tokenizer import Tokenizer

SHARD_BYTES = 20_000  # so small that there are several


def random_tensors(model: ModelConfig, seed: int = 0, std: float = 0.3) -> dict[str, torch.Tensor]:
    """Normal weights in fp32, by Hugging Face name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * std
        for name, shape in huggingface_shapes(model).items()
    }


def write_dream_folder(
    folder: Path,
    model: ModelConfig,
    tensors: dict[str, torch.Tensor],
    tokens: Tokenizer | dict[str, int],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Weights, config.json and code, and the tokenizer's files; returns ``folder``.

    Args:
        folder: made here.
        model: shape.
        tensors: of all weights.
        tokens: a tokenizer; or only the ids ``pad``, ``mask`` and ``expand``, and ``num_tokens``.
        dtype: of the weights.
    """
    folder.mkdir(parents=True)
    fingerprint = None
    if isinstance(tokens, Tokenizer):
        tokens.save_huggingface(folder)
        fingerprint = tokens.fingerprint
        tokens = {
            "pad": tokens.pad_id,
            "mask": tokens.mask_id,
            "expand": tokens.expand_id,
            "num_tokens": tokens.vocab_size,
        }
    write_safetensors(folder, huggingface_shapes(model), tensors.items(), dtype, SHARD_BYTES)
    config = dream_config_json(
        model,
        special_token_ids={name: tokens[name] for name in ("pad", "mask", "expand")},
        num_tokens=tokens["num_tokens"],
        tokenizer_fingerprint=fingerprint,
        torch_dtype=str(dtype).removeprefix("torch."),
    )
    write_json(folder / "config.json", config)
    for name, file in code_files().items():
        shutil.copyfile(file, folder / name)
    return folder
