"""A tiny exported folder with a tokenizer and its code, random weights, made without training."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from megatron_dream.config.schema import ModelConfig
from megatron_dream.tokenizer.train import train_sentencepiece
from tests.dream_folder import random_tensors, write_dream_folder

NUM_PIECES = 400


def make_tiny_export(folder: Path, hidden_size: int = 32, num_layers: int = 2) -> Path:
    """Write ``folder``, its tokenizer trained on Python's own json package; returns it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    sources = Path(sysconfig.get_path("stdlib")) / "json"
    tokenizer = train_sentencepiece([sources], NUM_PIECES, folder.parent / "tiny.model")
    model = ModelConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=2 * hidden_size,
        vocab_size=416,
        max_position_embeddings=1024,
    )
    return write_dream_folder(folder, model, random_tensors(model, seed=5), tokenizer)
