"""A freshly exported tiny model for the checks of other engines, and what it was made of.

Random weights go the whole way of a user's: a Dream folder, ``import-hf``, ``export-hf``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.config.schema import ModelConfig  # noqa: E402
from megatron_dream.hf import export_hf, import_hf  # noqa: E402
from megatron_dream.tokenizer import load_tokenizer  # noqa: E402
from tests.dream_folder import random_tensors, write_dream_folder  # noqa: E402

QWEN2_TOKENIZER = ROOT.parent / "shared" / "data" / "qwen2_tokenizer"
TINY = ModelConfig(
    num_layers=2,
    hidden_size=64,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=96,
    vocab_size=152_064,
    max_position_embeddings=2048,
    rotary_base=500_000.0,  # no program's default: a base that gets lost is seen
)


@dataclass(frozen=True)
class Exported:
    """One export.

    Attributes:
        folder: the exported folder.
        model: its shape.
        tensors: its values by Hugging Face name, as they were before the import, in fp32.
        num_tokens: ids that are tokens.
        mask_token_id: of the tokenizer.
    """

    folder: Path
    model: ModelConfig
    tensors: dict[str, torch.Tensor]
    num_tokens: int
    mask_token_id: int


def cache_folder() -> Path:
    """Where packages are kept between runs: ``DREAM_ACCEPTANCE_CACHE``, or the clone's work folder."""
    folder = Path(os.environ.get("DREAM_ACCEPTANCE_CACHE", ROOT / "work" / "acceptance"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_export(
    work: Path,
    name: str,
    *,
    tied: bool = False,
    dtype: str = "fp32",
    model: ModelConfig = TINY,
    tokenizer: Path = QWEN2_TOKENIZER,
) -> Exported:
    """Random weights, imported and exported.

    Args:
        work: folder for everything that is made.
        name: of the exported folder in it.
        tied: embedding and head are one table.
        dtype: of the exported weights, which are drawn so that bf16 holds them exactly.
        model: shape.
        tokenizer: folder or model file.
    """
    os.environ["MEGATRON_DREAM_DEVICE"] = "cpu"
    model = replace(model, tie_word_embeddings=tied)
    drawn = random_tensors(model, seed=11, std=0.2)
    tensors = {name: values.bfloat16().float() for name, values in drawn.items()}
    source, checkpoint = work / f"{name}-source", work / f"{name}-checkpoint"
    tokens = load_tokenizer(tokenizer)
    write_dream_folder(source, model, tensors, tokens)
    import_hf(source, checkpoint)
    export_hf(checkpoint, work / name, dtype=dtype)
    return Exported(work / name, model, tensors, tokens.vocab_size, tokens.mask_id)
