"""A tiny exported folder with a tokenizer and its code, random weights, made without training."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import torch

from megatron_dream.config.schema import ModelConfig
from megatron_dream.files import write_json
from megatron_dream.hf.export import code_files
from megatron_dream.hf.model_config import dream_config_json
from megatron_dream.hf.safetensors_writer import write_safetensors
from megatron_dream.hf.tensor_map import huggingface_shapes
from megatron_dream.tokenizer.train import train_sentencepiece

NUM_PIECES = 400


def make_tiny_export(folder: Path, hidden_size: int = 32, num_layers: int = 2) -> Path:
    """Write ``folder``, its tokenizer trained on Python's own json package; returns it."""
    folder.mkdir(parents=True)
    sources = Path(sysconfig.get_path("stdlib")) / "json"
    tokenizer = train_sentencepiece([sources], NUM_PIECES, folder.parent / "tiny.model")
    tokenizer.save_huggingface(folder)
    model = ModelConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=2 * hidden_size,
        vocab_size=416,
        max_position_embeddings=1024,
    )
    shapes = huggingface_shapes(model)
    generator = torch.Generator().manual_seed(5)
    tensors = {n: torch.randn(s, generator=generator) * 0.3 for n, s in shapes.items()}
    write_safetensors(folder, shapes, tensors.items(), torch.float32)
    config = dream_config_json(
        model,
        special_token_ids={"pad": tokenizer.pad_id, "mask": tokenizer.mask_id},
        num_tokens=tokenizer.vocab_size,
        tokenizer_fingerprint=tokenizer.fingerprint,
        torch_dtype="float32",
    )
    write_json(folder / "config.json", config)
    for name, file in code_files().items():
        shutil.copyfile(file, folder / name)
    return folder
