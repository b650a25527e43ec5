"""A tiny exported folder made without megatron-core, and its code as a package."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from megatron_dream.config.schema import ModelConfig
from megatron_dream.hf.export import code_files
from tests.dream_folder import random_tensors, write_dream_folder

PAD, MASK, EXPAND, NUM_TOKENS = 50, 51, 52, 53
MakeFolder = Callable[..., Path]


def tiny_model(tied: bool = False) -> ModelConfig:
    return ModelConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=48,
        vocab_size=61,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a Dream folder with random weights; returns its path."""

    def make(name: str = "folder", tied: bool = False, dtype: torch.dtype = torch.float32) -> Path:
        model = tiny_model(tied)
        ids = {"pad": PAD, "mask": MASK, "expand": EXPAND, "num_tokens": NUM_TOKENS}
        return write_dream_folder(tmp_path / name, model, random_tensors(model), ids, dtype)

    return make


@pytest.fixture(scope="session")
def remote_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """modeling_dream.py beside the sampler's files, as an exported folder has them."""
    folder = tmp_path_factory.mktemp("exported") / "dream_code"
    folder.mkdir()
    for name, file in code_files().items():
        shutil.copyfile(file, folder / name)
    (folder / "__init__.py").write_text("")
    sys.path.insert(0, str(folder.parent))
    try:
        yield importlib.import_module("dream_code.modeling_dream")
    finally:
        sys.path.remove(str(folder.parent))
