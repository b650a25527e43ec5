"""A small run whose tokenizer, token files and indices are there."""

from __future__ import annotations

import copy
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_dream.config.load import load_config
from megatron_dream.config.schema import RunConfig, SourceConfig
from megatron_dream.tokenizer.load import load_tokenizer
from megatron_dream.tokenizer.train import train_sentencepiece
from megatron_dream.training.run import build_index
from tests.unit.data.token_files import write_tokens

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``t.model``, token files ``a``, ``b`` and ``valid``, ``foreign`` of another tokenizer, ``short``."""
    folder = tmp_path_factory.mktemp("rehearsal")
    model = folder / "t.model"
    train_sentencepiece([Path(sysconfig.get_path("stdlib")) / "json"], 400, model)
    tokenizer = load_tokenizer(model)
    generator = np.random.default_rng(0)

    def documents(count: int) -> list[np.ndarray]:
        return [generator.integers(10, 300, 50) for _ in range(count)]

    good = {"tokenizer_fingerprint": tokenizer.fingerprint}
    for name, count in (("a", 200), ("b", 100), ("valid", 20)):
        write_tokens(folder / name, documents(count), **good)
    write_tokens(folder / "foreign", documents(20), tokenizer_fingerprint="ab" * 32)
    write_tokens(folder / "beyond", [np.full(50, tokenizer.vocab_size + 5) for _ in range(20)])
    write_tokens(folder / "short", [generator.integers(10, 300, 9)], **good)
    return folder


@pytest.fixture(scope="session")
def indexed_config(run_files: Path) -> RunConfig:
    """Of a model of 8 layers with 8 heads; its indices are built."""
    fields = {
        "model.num_layers": 8,
        "model.hidden_size": 64,
        "model.num_attention_heads": 8,
        "model.num_query_groups": 4,
        "model.ffn_hidden_size": 96,
        "model.layer_spec": "local",
        "tokenizer.path": run_files / "t.model",
        "data.sequence_length": 64,
        "data.cache_folder": run_files / "cache",
        "training.train_steps": 10,
        "training.global_batch_size": 64,
        "training.eval_interval": 5,
        "training.eval_samples": 64,
        "checkpoint.run_folder": run_files / "run",
    }
    config = load_config(None, [(name, str(value)) for name, value in fields.items()])
    config.data.train = [SourceConfig(str(run_files / name)) for name in ("a", "b")]
    config.data.valid = [SourceConfig(str(run_files / "valid"))]
    build_index(copy.deepcopy(config))
    return config


@pytest.fixture
def make_config(indexed_config: RunConfig) -> MakeConfig:
    """The configuration with some fields changed; ``__`` stands for the dot."""

    def make(**fields: object) -> RunConfig:
        config = copy.deepcopy(indexed_config)
        for name, value in fields.items():
            section, field = name.split("__")
            assert hasattr(getattr(config, section), field)
            setattr(getattr(config, section), field, value)
        return config

    return make
