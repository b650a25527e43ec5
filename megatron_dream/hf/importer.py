"""From a Hugging Face folder to a checkpoint, one tensor at a time.

megatron-core's model of this process is built without drawing weights and filled in place, each rank
reading only its part of each tensor, so that no second copy exists. A checkpoint loads on any layout:
one process imports for every TP and PP, and TP x PP processes share the work where a launcher starts them.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import parallel
from ..checkpoint.metadata import CheckpointMetadata
from ..checkpoint.save import CheckpointWriter
from ..config.layout import resolve_layout
from ..config.schema import ModelConfig, ParallelConfig, RunConfig, TrainingConfig
from ..errors import CheckpointError, LayoutError, ModelFolderError
from ..model.build import build_model
from ..model.initialize import global_parameters
from ..tokenizer.base import Tokenizer, check_vocab
from ..tokenizer.load import has_tokenizer, load_tokenizer
from ..tokenizer.special import BEGINOFTEXT, ENDOFTEXT, EXPAND, MASK, QWEN2_IDS
from .model_config import FolderConfig
from .reader import FolderReader
from .tensor_map import SliceReader, entries_by_megatron_name, read_shard

_MEAN_ROWS = 8192  # rows of a table read at a time for their mean
_NAMES = {"pad": ENDOFTEXT, "eos": ENDOFTEXT, "bos": BEGINOFTEXT, "mask": MASK, "expand": EXPAND}

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What is known of a folder's tokens.

    Attributes:
        special_token_ids: by name (pad, eos, bos, mask, expand), those that are known.
        num_tokens: ids that are tokens, None where unknown.
        fingerprint: of the tokenizer, None without one.
        path: of the tokenizer, None without one.
    """

    special_token_ids: dict[str, int]
    num_tokens: int | None = None
    fingerprint: str | None = None
    path: str | None = None


def import_folder(folder: Path | str, checkpoint: Path | str, *, tp: int = 1, pp: int = 1) -> Path:
    """Make a checkpoint from a Qwen2- or Dream-type folder.

    Reads safetensors and JSON only and never runs the folder's code. bfloat16 stays bfloat16, anything
    else becomes float32, both exact. In an autoregressive model the rows of the mask and of BOS become
    the mean of the ordinary tokens' rows (SPEC 4); a Dream model's are trained and stay, and so do those of
    a model from left to right that ``export-hf`` wrote.

    Args:
        folder: config.json and safetensors; tokenizer files may be absent.
        checkpoint: folder to make; it must not exist.
        tp: tensor-parallel size that the model must fit.
        pp: pipeline-parallel size that it must fit.

    Returns:
        ``checkpoint``.

    Raises:
        ModelFolderError: the folder has missing, extra or misshapen parts, or leaves itself.
        TokenizerError: its tokenizer does not fit its table.
        LayoutError: the model cannot be cut that way, or another number of processes runs.
        CheckpointError: ``checkpoint`` exists.
    """
    target = Path(checkpoint)
    if target.exists():
        raise CheckpointError(f"{target} exists; name a new folder or remove it")
    with FolderReader(folder) as reader:
        model = reader.config.model
        vocabulary = read_vocabulary(reader.folder, reader.config)
        _check_layout(model, tp, pp)
        layout = _process_layout(tp, pp)
        training = TrainingConfig(precision="bf16" if reader.is_bf16 else "fp32")
        ranks = parallel.start(layout)
        chunks = build_model(model, layout, training, ranks, draws_weights=False)
        for chunk in chunks:
            fill_chunk(chunk, reader.read, model, ranks.tp_rank, ranks.tp_size)
            if not reader.config.is_dream and reader.config.tokenizer_fingerprint is None:
                fill_new_rows(chunk, reader.read, model, vocabulary, ranks.tp_rank)
    metadata = _metadata(reader.config, vocabulary, tp, pp, Path(folder).resolve().name)
    try:
        CheckpointWriter(target.parent, ranks, moves_latest=False).save(
            target.name, [_SpentChunk(chunk) for chunk in chunks], metadata
        )
    finally:
        if ranks.rank == 0:
            shutil.rmtree(target.parent / f".{target.name}.tmp", ignore_errors=True)
    return target


def read_vocabulary(folder: Path, config: FolderConfig) -> Vocabulary:
    """Token ids of a folder: from its tokenizer, else Dream's where it is a Qwen2 vocabulary.

    Raises:
        TokenizerError: the tokenizer does not fit the table, or is not what config.json names.
    """
    if has_tokenizer(folder):
        tokenizer = load_tokenizer(folder)
        is_named = config.is_dream or config.tokenizer_fingerprint is not None
        check_vocab(
            tokenizer,
            config.model.vocab_size,
            mask_token_id=config.special_token_ids.get("mask") if is_named else None,
            fingerprint=config.tokenizer_fingerprint,
        )
        return tokenizer_vocabulary(tokenizer)
    ids = _dream_ids_of_qwen2(config)
    if config.is_dream and not ids:
        ids = dict(config.special_token_ids)
    known = "" if "mask" in ids else "; the mask's id stays unknown"
    logger.warning(
        "%s has no tokenizer files%s: name the model's tokenizer where you train or export",
        folder,
        known,
    )
    return Vocabulary(ids, config.num_tokens, config.tokenizer_fingerprint)


def tokenizer_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """What a checkpoint stores of a tokenizer."""
    ids = {name: getattr(tokenizer, f"{name}_id") for name in _NAMES}
    return Vocabulary(ids, tokenizer.vocab_size, tokenizer.fingerprint, str(tokenizer.path))


def _dream_ids_of_qwen2(config: FolderConfig) -> dict[str, int]:
    """SPEC 4's ids if config.json ends texts as Qwen2 does, else none.

    A published Dream folder's config.json names PAD as BOS: the true one is that of the tokenizer.
    """
    ends = {config.special_token_ids.get(name) for name in ("bos", "eos", "pad")}
    is_qwen2 = bool(ends & {QWEN2_IDS[ENDOFTEXT], QWEN2_IDS["<|im_end|>"]})
    is_masked_alike = config.special_token_ids.get("mask", QWEN2_IDS[MASK]) == QWEN2_IDS[MASK]
    if not (is_qwen2 and is_masked_alike) or config.model.vocab_size <= QWEN2_IDS[EXPAND]:
        return {}
    return {name: QWEN2_IDS[token] for name, token in _NAMES.items()}


def _check_layout(model: ModelConfig, tp: int, pp: int) -> None:
    if tp < 1 or pp < 1:
        raise LayoutError(f"TP {tp} and PP {pp} must be at least 1; change --tp or --pp")
    config = RunConfig(model=model)
    config.parallel = ParallelConfig(tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    config.data.sequence_length = min(config.data.sequence_length, model.max_position_embeddings)
    resolve_layout(config, tp * pp)


def _process_layout(tp: int, pp: int) -> ParallelConfig:
    world_size = parallel.launched_world_size()
    if world_size == 1:
        return ParallelConfig()
    if world_size != tp * pp:
        raise LayoutError(
            f"{world_size} processes were started for TP {tp} x PP {pp} = {tp * pp}; start one or "
            f"{tp * pp}"
        )
    return ParallelConfig(tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)


class _SpentChunk:
    """A filled model chunk that is given up for its checkpoint.

    megatron-core stores gate and up as two views of one tensor and clones all views of host memory
    before it writes the first: a second copy of half the model. Here each gets its own memory and the
    tensor they came from is let go, one layer at a time.
    """

    def __init__(self, chunk: Any) -> None:
        self._chunk = chunk

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

        state: dict[str, Any] = self._chunk.sharded_state_dict(*args, **kwargs)
        for name, value in state.items():
            if isinstance(value, ShardedTensorFactory):
                parts = value.build()
                for part in parts:
                    part.data = part.data.clone()
                value.data.untyped_storage().resize_(0)
                state[name] = parts
        return state


@torch.no_grad()
def fill_chunk(
    chunk: Any, read: SliceReader, model: ModelConfig, tp_rank: int, tp_size: int
) -> None:
    """Fill every parameter of one model chunk from the folder.

    Raises:
        ModelFolderError: the chunk has a parameter that the folder's kind of model has not.
    """
    known = entries_by_megatron_name(model)
    for name, parameter in global_parameters(chunk):
        if name not in known:
            raise ModelFolderError(f"the model has {name}, which no Qwen2 or Dream folder holds")
        parameter.copy_(read_shard(known[name], read, model, tp_rank, tp_size))


@torch.no_grad()
def fill_new_rows(
    chunk: Any, read: SliceReader, model: ModelConfig, vocabulary: Vocabulary, tp_rank: int
) -> None:
    """Set the rows of mask and BOS in embedding and head to the mean of the ordinary tokens' rows."""
    ids = vocabulary.special_token_ids
    new = [ids[name] for name in ("mask", "bos") if name in ids]
    if not new:
        return
    num_ordinary = min(ids.values()) or vocabulary.num_tokens or model.vocab_size
    known = entries_by_megatron_name(model)
    for name, parameter in global_parameters(chunk):
        if known[name].kind != "vocabulary":
            continue
        mean = mean_row(known[name].sources[0], read, num_ordinary)
        for row in (token - tp_rank * parameter.shape[0] for token in new):
            if 0 <= row < parameter.shape[0]:
                parameter[row] = mean.to(parameter.dtype)


def mean_row(name: str, read: SliceReader, num_rows: int) -> Tensor:
    """Mean [H] of the first ``num_rows`` rows of a table, summed in float64, read in pieces."""
    total: Tensor | None = None
    for start in range(0, num_rows, _MEAN_ROWS):
        piece = read(name, (slice(start, min(start + _MEAN_ROWS, num_rows)),))
        part = piece.double().sum(dim=0)
        total = part if total is None else total + part
    if total is None:
        raise ValueError(f"the mean of no rows of {name} was asked for")
    return total / num_rows


def _metadata(
    config: FolderConfig, vocabulary: Vocabulary, tp: int, pp: int, source: str
) -> CheckpointMetadata:
    return CheckpointMetadata(
        model=dataclasses.asdict(config.model),
        mask_token_id=vocabulary.special_token_ids.get("mask"),
        tokenizer_fingerprint=vocabulary.fingerprint,
        tokenizer_path=vocabulary.path,
        special_token_ids=vocabulary.special_token_ids,
        num_tokens=vocabulary.num_tokens,
        objective="diffusion" if config.is_dream else "ar",
        layout={"tp": tp, "pp": pp, "vp": 1, "cp": 1, "dp": 1},
        trained={"imported_from": source},
    )
