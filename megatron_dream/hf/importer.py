"""``import-hf``: a Qwen2- or Dream-type folder becomes a checkpoint for any layout.

Tensor by tensor: the model's parameters are the only copy in memory. The folder's code is never
run. The rows of the mask and of BOS of an autoregressive model, which never met them, become the
mean of the ordinary rows (SPEC 4); a Dream model's are trained and stay.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from .. import parallel
from ..checkpoint.metadata import CheckpointMetadata
from ..checkpoint.save import CheckpointWriter
from ..config.layout import resolve_layout
from ..config.schema import ParallelConfig, RunConfig, TrainingConfig
from ..errors import CheckpointError
from ..model.build import build_model
from ..model.initialize import global_parameters, set_rows_to_mean
from ..tokenizer.base import Tokenizer, check_vocab
from ..tokenizer.load import load_tokenizer
from .model_config import FolderConfig
from .reader import FolderReader
from .tensor_map import entries_by_megatron_name, read_shard


def import_folder(folder: Path | str, checkpoint: Path | str, *, tp: int = 1, pp: int = 1) -> None:
    """Write ``checkpoint``, weights only, from ``folder``.

    Args:
        folder: config.json, safetensors, and tokenizer files if there are any.
        checkpoint: a new folder.
        tp: tensor-parallel size it is meant for; checked and recorded, any other loads it too.
        pp: pipeline size, likewise.

    Raises:
        ModelFolderError: a part is missing, misshapen or not supported.
        TokenizerError: the folder's tokenizer does not fit its model.
        CheckpointError: ``checkpoint`` exists.
    """
    folder, checkpoint = Path(folder), Path(checkpoint)
    if checkpoint.exists():
        raise CheckpointError(f"{checkpoint} exists; name a new folder or remove it")
    with FolderReader(folder) as reader:
        config = reader.config
        _check_layout(config, tp, pp)
        tokenizer = _folder_tokenizer(folder, config)
        training = TrainingConfig(precision="bf16" if reader.is_bf16 else "fp32")
        layout = ParallelConfig()
        ranks = parallel.start(layout)
        chunks = build_model(config.model, layout, training, ranks, draws_weights=False)
        _fill(chunks, reader)
    if tokenizer is not None and not config.is_dream:
        rows = [tokenizer.mask_id, tokenizer.bos_id]
        set_rows_to_mean(chunks, rows, min(tokenizer.added_tokens), ranks)
    metadata = _metadata(folder, config, tokenizer, tp, pp)
    writer = CheckpointWriter(checkpoint.parent, ranks, moves_latest=False)
    writer.save(checkpoint.name, chunks, metadata)
    print(
        f"{checkpoint}: {sum(p.numel() for p in chunks[0].parameters()):,} parameters from {folder}"
    )


def _check_layout(config: FolderConfig, tp: int, pp: int) -> None:
    run = RunConfig(model=config.model)
    run.parallel = ParallelConfig(tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    run.data.sequence_length = min(run.data.sequence_length, config.model.max_position_embeddings)
    resolve_layout(run, tp * pp)


def _folder_tokenizer(folder: Path, config: FolderConfig) -> Tokenizer | None:
    has_files = (folder / "tokenizer.json").is_file() or any(folder.glob("*.model"))
    if not has_files:
        print(
            f"warning: {folder} has no tokenizer files: nothing is checked, the rows of mask and "
            f"BOS stay as they are, and export needs --tokenizer",
            file=sys.stderr,
        )
        return None
    tokenizer = load_tokenizer(folder)
    mask = config.special_token_ids.get("mask") if config.is_dream else None
    check_vocab(
        tokenizer,
        config.model.vocab_size,
        mask_token_id=mask,
        fingerprint=config.tokenizer_fingerprint,
    )
    return tokenizer


@torch.no_grad()
def _fill(chunks: list[Any], reader: FolderReader) -> None:
    """Read every parameter of the model, one at a time."""
    model = reader.config.model
    entries = entries_by_megatron_name(model)
    for chunk in chunks:
        for name, parameter in global_parameters(chunk):
            parameter.copy_(read_shard(entries[name], reader.read, model))


def _metadata(
    folder: Path, config: FolderConfig, tokenizer: Tokenizer | None, tp: int, pp: int
) -> CheckpointMetadata:
    ids = dict(config.special_token_ids)
    if tokenizer is not None:
        ids = {
            name: getattr(tokenizer, f"{name}_id")
            for name in ("pad", "eos", "bos", "mask", "expand")
        }
    return CheckpointMetadata(
        model=dataclasses.asdict(config.model),
        mask_token_id=ids.get("mask"),
        tokenizer_fingerprint=tokenizer.fingerprint if tokenizer else config.tokenizer_fingerprint,
        tokenizer_path=str(folder.resolve()) if tokenizer else None,
        special_token_ids=ids,
        num_tokens=tokenizer.vocab_size if tokenizer else config.num_tokens,
        objective="diffusion" if config.is_dream else "ar",
        layout={"tp": tp, "pp": pp, "vp": 1, "cp": 1, "dp": 1},
        trained={"imported_from": folder.name},
    )
