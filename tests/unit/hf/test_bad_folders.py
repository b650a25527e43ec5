"""Hugging Face folders that are not what they should be: one sentence each, nothing run, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_dream.config.schema import ModelConfig
from megatron_dream.errors import ModelFolderError
from megatron_dream.hf.model_config import dream_config_json
from megatron_dream.hf.reader import FolderReader
from megatron_dream.hf.tensor_map import huggingface_shapes

MODEL = ModelConfig(
    num_layers=1,
    hidden_size=8,
    num_attention_heads=2,
    num_query_groups=1,
    ffn_hidden_size=12,
    vocab_size=20,
)
NORM = "model.norm.weight"


def write_folder(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {name: torch.ones(shape) for name, shape in huggingface_shapes(MODEL).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = dream_config_json(
        MODEL,
        special_token_ids={"pad": 1, "mask": 2},
        num_tokens=20,
        tokenizer_fingerprint=None,
        torch_dtype="float32",
    )
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def missing(folder: Path) -> None:
    tensors = write_folder(folder)
    del tensors[NORM]
    save_file(tensors, folder / "model.safetensors")


def extra(folder: Path) -> None:
    save_file({**write_folder(folder), "surprise": torch.ones(1)}, folder / "model.safetensors")


def misshapen(folder: Path) -> None:
    save_file({**write_folder(folder), NORM: torch.ones(9)}, folder / "model.safetensors")


def integers(folder: Path) -> None:
    tensors = {**write_folder(folder), NORM: torch.ones(8, dtype=torch.int32)}
    save_file(tensors, folder / "model.safetensors")


def truncated(folder: Path) -> None:
    write_folder(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def leaving(folder: Path) -> None:
    names = list(write_folder(folder))
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def sliding(folder: Path) -> None:
    write_folder(folder)
    change_config(folder, use_sliding_window=True, sliding_window=16)


def other_activation(folder: Path) -> None:
    write_folder(folder)
    change_config(folder, hidden_act="gelu")


def other_kind(folder: Path) -> None:
    write_folder(folder)
    change_config(folder, model_type="llama")


def broken_json(folder: Path) -> None:
    write_folder(folder)
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, NORM),
        (extra, "surprise"),
        (misshapen, NORM),
        (integers, NORM),
        (truncated, "model.safetensors"),
        (leaving, "outside.safetensors"),
        (sliding, "sliding"),
        (other_activation, "hidden_act"),
        (other_kind, "model_type"),
        (broken_json, "config.json"),
    ],
)
def test_one_sentence(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    spoil(folder)
    with pytest.raises(ModelFolderError) as refused:
        FolderReader(folder)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_whole_folder_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with FolderReader(tmp_path) as reader:
        assert reader.config.model.hidden_size == 8 and reader.config.is_dream
        assert torch.equal(reader.read(NORM), torch.ones(8))
