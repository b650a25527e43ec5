"""From a checkpoint of any layout to a Hugging Face folder (SPEC 10), streaming.

Tensors are read from the checkpoint one layer's tensor at a time and written at once; neither
megatron-core nor process groups nor a model in memory are needed. The folder appears when it is whole.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .. import sampling
from ..checkpoint.inference import find_tokenizer
from ..checkpoint.metadata import (
    CheckpointMetadata,
    read_metadata,
    refuse_without_shift,
    resolve_checkpoint,
    verify_files,
)
from ..checkpoint.tensors import TensorReader
from ..config.schema import ModelConfig
from ..errors import CheckpointError, ConfigError, ModelFolderError, TokenizerError, UserError
from ..files import atomic_folder, write_json
from ..tokenizer.base import Tokenizer
from ..tokenizer.hf_files import set_bos_before_texts
from .model_card import model_card
from .model_config import dream_config_json, qwen2_config_json, read_json
from .safetensors_writer import MAX_SHARD_BYTES, write_safetensors
from .tensor_map import Entry, entries, huggingface_shapes, to_huggingface

_DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "float32": torch.float32,
}
_DTYPE_NAMES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
_LAYER = re.compile(r"^decoder\.layers\.\d+\.")
_FINAL_NORM = "decoder.final_layernorm.weight"

logger = logging.getLogger(__name__)


def export_checkpoint(
    checkpoint: Path | str,
    folder: Path | str,
    tokenizer: Path | str | None = None,
    *,
    dtype: str = "auto",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a folder that transformers loads without this package.

    A diffusion model becomes a Dream folder with its code. One that goes from left to right becomes a
    Qwen2 folder, which transformers' own code runs; its tokenizer puts BOS before a text if its training did.

    Args:
        checkpoint: checkpoint or run folder, saved on any layout.
        folder: to make; an earlier export of that name is replaced once the new one is whole.
        tokenizer: default: where the run found it, if it is still there and the same.
        dtype: ``bf16``, ``fp32`` or ``auto``, the checkpoint's own, which changes no bit.
        max_shard_bytes: of data in one safetensors file.

    Returns:
        ``folder``.

    Raises:
        CheckpointError: missing, altered, or of another kind of model.
        TokenizerError: not the one the model was made with, or gone.
        ModelFolderError: ``folder`` holds something else.
        ConfigError: an unknown dtype.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; choose auto, bf16 or fp32")
    target = Path(folder)
    _check_target(target)
    source = resolve_checkpoint(checkpoint)
    metadata = read_metadata(source)
    refuse_without_shift(source, metadata)
    if fault := verify_files(source, metadata):
        raise CheckpointError(fault)
    model = _model_config(source, metadata)
    found = _tokenizer(metadata, tokenizer)
    weights = CheckpointWeights(source, model)
    chosen = weights.dtype if dtype == "auto" else _DTYPES[dtype]
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as temporary:
        shapes = huggingface_shapes(model)
        write_safetensors(temporary, shapes, weights.stream(), chosen, max_shard_bytes)
        _write_texts(temporary, target.name, metadata, model, found, _DTYPE_NAMES[chosen])
        if metadata.objective != "ar":
            _copy_code(temporary)
    return target


def is_export(folder: Path) -> bool:
    """Whether ``folder`` is one that ``export_checkpoint`` wrote."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / "modeling_dream.py").is_file():
        return True
    try:  # a model from left to right has no code of ours, but the key that we alone write
        return "tokenizer_fingerprint" in read_json(folder / "config.json")
    except ModelFolderError:
        return False


def _check_target(target: Path) -> None:
    if target.is_dir() and (not any(target.iterdir()) or is_export(target)):
        return
    if target.exists():
        raise ModelFolderError(
            f"{target} exists and is no earlier export; name a new folder or remove it"
        )


def _model_config(source: Path, metadata: CheckpointMetadata) -> ModelConfig:
    try:
        return ModelConfig(**metadata.model)
    except TypeError as error:
        raise CheckpointError(
            f"{source}: the model in its metadata is not understood ({error}); use the program "
            f"that wrote it"
        ) from None


def _tokenizer(metadata: CheckpointMetadata, given: Path | str | None) -> Tokenizer | None:
    """The checkpoint's tokenizer; None if it never had one.

    Raises:
        TokenizerError: it is gone, or is not the one that the model was made with.
    """
    found = find_tokenizer(metadata, given)
    if found is None and metadata.tokenizer_fingerprint is not None:
        known = metadata.tokenizer_path
        where = f"no longer at {known}" if known else "not named in the checkpoint"
        raise TokenizerError(
            f"the tokenizer (sha256 {metadata.tokenizer_fingerprint[:16]}) is {where}; say where it "
            f"is with --tokenizer"
        )
    if found is None:
        logger.warning("the checkpoint names no tokenizer: the folder gets no tokenizer files")
    return found


class CheckpointWeights:
    """The tensors of a checkpoint as Hugging Face tensors, in the order of an exported file."""

    def __init__(self, source: Path, model: ModelConfig) -> None:
        self._source, self._model = source, model
        self._reader = TensorReader(source)
        names = set(self._reader.names())
        self._entries = entries(model, "transformer_engine")  # the names that checkpoints use
        for entry in self._entries:
            if stored_name(entry) not in names:
                raise CheckpointError(
                    f"{source} holds no tensor {stored_name(entry)}, which its model has; use "
                    f"another checkpoint"
                )
        self.dtype = self._stored_dtype()

    def _stored_dtype(self) -> torch.dtype:
        stored = self._reader.read(_FINAL_NORM).dtype
        return stored if stored in _DTYPE_NAMES else torch.float32

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every tensor; one megatron-core tensor in memory at a time.

        Raises:
            CheckpointError: a tensor has another shape than the metadata's model.
        """
        expected = huggingface_shapes(self._model)
        for entry in self._entries:
            for name, tensor in self._convert(entry):
                if tuple(tensor.shape) != expected[name]:
                    raise CheckpointError(
                        f"{self._source}: {stored_name(entry)} gives {name} of shape "
                        f"{list(tensor.shape)}, expected {list(expected[name])} by its metadata; "
                        f"use another checkpoint"
                    )
                yield name, tensor

    def _convert(self, entry: Entry) -> Iterator[tuple[str, Tensor]]:
        whole = self._reader.read(stored_name(entry), entry.layer)
        try:
            yield from to_huggingface(entry, whole, self._model).items()
        except (RuntimeError, ValueError):
            raise CheckpointError(
                f"{self._source}: {stored_name(entry)} has shape {list(whole.shape)}, which does "
                f"not fit its metadata; use another checkpoint"
            ) from None


def stored_name(entry: Entry) -> str:
    """Name in a checkpoint, where all layers of a tensor are one with the layer in front."""
    return _LAYER.sub("decoder.layers.", entry.name)


def _write_texts(
    folder: Path,
    name: str,
    metadata: CheckpointMetadata,
    model: ModelConfig,
    tokenizer: Tokenizer | None,
    dtype: str,
) -> None:
    """config.json, generation_config.json, tokenizer files and the model card."""
    ids = dict(metadata.special_token_ids)
    num_tokens, fingerprint = metadata.num_tokens, metadata.tokenizer_fingerprint
    if metadata.mask_token_id is not None:
        ids["mask"] = metadata.mask_token_id
    if tokenizer is not None:
        names = ("bos", "pad", "mask", "expand")
        ids = {name: getattr(tokenizer, f"{name}_id") for name in names}
        num_tokens, fingerprint = tokenizer.vocab_size, tokenizer.fingerprint
        _save_tokenizer(tokenizer, folder)
        if (is_wanted := _begins_with_bos(metadata)) is not None:
            set_bos_before_texts(folder, is_wanted)
    make_config = qwen2_config_json if metadata.objective == "ar" else dream_config_json
    config = make_config(
        model,
        special_token_ids=ids,
        num_tokens=num_tokens,
        tokenizer_fingerprint=fingerprint,
        torch_dtype=dtype,
    )
    write_json(folder / "config.json", config)
    id_names = ("bos", "eos", "pad", "mask", "expand")
    generation = {key: config[key] for name in id_names if (key := f"{name}_token_id") in config}
    if (end := _answer_end(metadata, tokenizer)) is not None:
        generation["eos_token_id"] = [end, generation["eos_token_id"]]
    write_json(folder / "generation_config.json", generation)
    card = model_card(
        metadata,
        model,
        huggingface_shapes(model),
        name=name,
        dtype=dtype,
        fingerprint=fingerprint,
        mask_token_id=ids.get("mask"),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _begins_with_bos(metadata: CheckpointMetadata) -> bool | None:
    """Whether the tokenizer is to put BOS before a text; None: as it does, of weights not trained here.

    A Dream folder's does not: code for it puts BOS itself.
    """
    if metadata.objective != "ar":
        return False
    if metadata.stage is None:
        return None
    if metadata.stage == "sft":  # prompts without a template begin with it (data/sft/rendering.py)
        return True
    data = (metadata.trained.get("recipe") or {}).get("data") or {}
    return bool(data.get("bos_per_sample", True))


def _answer_end(metadata: CheckpointMetadata, tokenizer: Tokenizer | None) -> int | None:
    """The token that ends answers of a model from left to right, where it is not the one that ends texts."""
    ends_turn = metadata.objective == "ar" and metadata.sft.get("response_end") == "im_end"
    return tokenizer.im_end_id if ends_turn and tokenizer is not None else None


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    try:
        tokenizer.save_huggingface(folder)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{tokenizer.path} cannot be exported ({error})") from error


def code_files() -> dict[str, Path]:
    """Every Python file of an exported folder, by its name there: our remote code and the sampler."""
    remote = Path(__file__).parent / "remote"
    files = [*sorted(remote.glob("*.py")), *sorted(Path(sampling.__path__[0]).glob("*.py"))]
    return {file.name: file for file in files if file.name != "__init__.py"}


def _copy_code(folder: Path) -> None:
    for name, file in code_files().items():
        shutil.copyfile(file, folder / name)
