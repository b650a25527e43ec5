"""``export-hf``: a checkpoint of any layout becomes a Dream folder (SPEC 10).

Reads the checkpoint's files one layer's tensor at a time and writes safetensors as they come: no
model is built and no process group is needed. The folder appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import sampling
from ..checkpoint.metadata import (
    CheckpointMetadata,
    read_metadata,
    resolve_checkpoint,
    verify_files,
)
from ..checkpoint.tensors import TensorReader
from ..config.schema import ModelConfig
from ..errors import CheckpointError, ModelFolderError, TokenizerError
from ..files import atomic_folder, atomic_write, write_json
from ..tokenizer.base import Tokenizer, check_vocab
from ..tokenizer.load import load_tokenizer
from .model_card import model_card
from .model_config import dream_config_json
from .safetensors_writer import write_safetensors
from .tensor_map import Entry, LayerSpec, entries, huggingface_shapes, to_huggingface

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_REMOTE = Path(__file__).parent / "remote"


def export_checkpoint(
    checkpoint: Path | str,
    folder: Path | str,
    tokenizer: Path | str | None = None,
    *,
    dtype: str = "auto",
) -> int:
    """Write ``folder`` from ``checkpoint``.

    Args:
        checkpoint: checkpoint or run folder.
        folder: a new folder, or an exported one to replace.
        tokenizer: default: where the run found it, if it is still there and the same.
        dtype: ``"bfloat16"``, ``"float32"`` or ``"auto"``: as the weights are stored.

    Returns:
        Bytes of all tensors.

    Raises:
        CheckpointError: incomplete, altered or of another kind.
        TokenizerError: no tokenizer, or another than the model's.
        ModelFolderError: ``folder`` holds something that is no exported model.
    """
    source, folder = resolve_checkpoint(checkpoint), Path(folder)
    metadata = read_metadata(source)
    if fault := verify_files(source, metadata):
        raise CheckpointError(fault)
    _check_target(folder)
    model = ModelConfig(**metadata.model)
    words = _tokenizer(metadata, tokenizer, source)
    reader = TensorReader(source)
    kind = _stored_dtype(reader) if dtype == "auto" else dtype
    if kind not in _DTYPES:
        raise ModelFolderError(f"dtype {dtype} is unknown; choose auto, bfloat16 or float32")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        _write_small_files(temporary, metadata, model, words, kind)
        tensors = _tensors(reader, model)
        total = write_safetensors(temporary, huggingface_shapes(model), tensors, _DTYPES[kind])
    print(f"{folder}: {total:,} bytes of {kind} weights, step {metadata.step}")
    return total


def _check_target(folder: Path) -> None:
    if folder.exists() and not (folder / "config.json").is_file() and any(folder.iterdir()):
        raise ModelFolderError(f"{folder} is not empty and no exported model; name another folder")


def _tokenizer(
    metadata: CheckpointMetadata, given: Path | str | None, checkpoint: Path
) -> Tokenizer:
    path = given or metadata.tokenizer_path
    if path is None or not Path(path).exists():
        raise TokenizerError(
            f"{checkpoint}: its tokenizer {path or ''} is not to be found; name it with --tokenizer"
        )
    tokenizer = load_tokenizer(path)
    check_vocab(
        tokenizer,
        metadata.model["vocab_size"],
        mask_token_id=metadata.mask_token_id,
        fingerprint=metadata.tokenizer_fingerprint,
    )
    return tokenizer


def _stored_dtype(reader: TensorReader) -> str:
    norm = reader.read("decoder.final_layernorm.weight")
    return "bfloat16" if norm.dtype == torch.bfloat16 else "float32"


def _layer_spec(reader: TensorReader) -> LayerSpec:
    is_local = "decoder.layers.input_layernorm.weight" in reader.names()
    return "local" if is_local else "transformer_engine"


def _stored_name(entry: Entry) -> str:
    """The name in a checkpoint, where all layers of a kind are one tensor."""
    if entry.layer is None:
        return entry.name
    return entry.name.replace(f"decoder.layers.{entry.layer}.", "decoder.layers.", 1)


def _tensors(reader: TensorReader, model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of the folder, in the order of ``huggingface_shapes``."""
    for entry in entries(model, _layer_spec(reader)):
        whole = reader.read(_stored_name(entry), entry.layer)
        yield from to_huggingface(entry, whole, model).items()


def _write_small_files(
    folder: Path,
    metadata: CheckpointMetadata,
    model: ModelConfig,
    tokenizer: Tokenizer,
    dtype: str,
) -> None:
    ids = {"pad": tokenizer.pad_id, "mask": tokenizer.mask_id}
    config = dream_config_json(
        model,
        special_token_ids=ids,
        num_tokens=tokenizer.vocab_size,
        tokenizer_fingerprint=tokenizer.fingerprint,
        torch_dtype=dtype,
    )
    write_json(folder / "config.json", config)
    generation: dict[str, Any] = {
        "bos_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    write_json(folder / "generation_config.json", generation)
    tokenizer.save_huggingface(folder)
    _copy_code(folder)
    with atomic_write(folder / "README.md") as stream:
        stream.write(model_card(metadata, model, dtype))


def _copy_code(folder: Path) -> None:
    """The remote code, and the sampler's files beside it: transformers follows flat imports only."""
    sampler = Path(sampling.__file__).parent
    for file in (*_REMOTE.glob("*.py"), *sampler.glob("*.py")):
        if file.name != "__init__.py":
            shutil.copyfile(file, folder / file.name)
