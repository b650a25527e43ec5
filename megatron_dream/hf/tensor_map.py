"""Names and shapes both ways between Qwen2/Dream tensors and a megatron-core GPTModel's.

Pure functions of one tensor at a time, so that import and export stream. A megatron-core tensor is
made of one, two or three Hugging Face tensors:

    linear_qkv   per query group [its q heads | its k head | its v head], weights and biases
    linear_fc1   [gate | up]; each tensor-parallel shard holds its part of both
    linear_proj, linear_fc2   split on columns
    word_embeddings, output_layer   split on rows, padded with zero rows to a multiple of TP

Layer numbers count over all pipeline stages; a stage takes the entries of the layers that it holds.
Shapes: H hidden, F FFN, V vocabulary, D head, G query groups (KV heads), Q query heads of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..config.schema import LayerSpec, ModelConfig

Kind = Literal["copy", "columns", "vocabulary", "qkv", "gate_up"]
Index = tuple[slice, ...]
SliceReader = Callable[[str, Index], Tensor]  # (Hugging Face name, slice a dimension) -> that part

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
MEGATRON_EMBEDDING = "embedding.word_embeddings.weight"
MEGATRON_HEAD = "output_layer.weight"

# Transformer Engine's layers fuse each norm into the linear layer that follows it.
_NORMS = {
    "local": ("input_layernorm.weight", "pre_mlp_layernorm.weight"),
    "transformer_engine": (
        "self_attention.linear_qkv.layer_norm_weight",
        "mlp.linear_fc1.layer_norm_weight",
    ),
}


@dataclass(frozen=True)
class Entry:
    """One megatron-core tensor and what it consists of.

    Attributes:
        name: in a GPTModel's state dict, layers counted over all stages.
        kind: how the sources are put together and split.
        sources: Hugging Face names in order (q, k, v; gate, up; or one).
        layer: number of the layer, None outside the layers.
    """

    name: str
    kind: Kind
    sources: tuple[str, ...]
    layer: int | None = None


def head_dim(model: ModelConfig) -> int:
    """D: width of one attention head."""
    return model.hidden_size // model.num_attention_heads


def layer_entries(model: ModelConfig, layer: int, spec: LayerSpec = "local") -> list[Entry]:
    """The tensors of one layer, in the order of an exported file."""
    theirs, ours = f"model.layers.{layer}.", f"decoder.layers.{layer}."
    attention, mlp = f"{theirs}self_attn.", f"{theirs}mlp."
    input_norm, mlp_norm = _NORMS[spec]

    def qkv(suffix: str) -> Entry:
        sources = tuple(f"{attention}{part}_proj.{suffix}" for part in "qkv")
        return Entry(f"{ours}self_attention.linear_qkv.{suffix}", "qkv", sources, layer)

    def one(name: str, kind: Kind, *sources: str) -> Entry:
        return Entry(f"{ours}{name}", kind, sources, layer)

    return [
        one(input_norm, "copy", f"{theirs}input_layernorm.weight"),
        qkv("weight"),
        *([qkv("bias")] if model.add_qkv_bias else []),
        one("self_attention.linear_proj.weight", "columns", f"{attention}o_proj.weight"),
        one(mlp_norm, "copy", f"{theirs}post_attention_layernorm.weight"),
        one("mlp.linear_fc1.weight", "gate_up", f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight"),
        one("mlp.linear_fc2.weight", "columns", f"{mlp}down_proj.weight"),
    ]


def entries(model: ModelConfig, spec: LayerSpec = "local") -> list[Entry]:
    """All tensors of a model, in the order of an exported file."""
    found = [Entry(MEGATRON_EMBEDDING, "vocabulary", (EMBEDDING,))]
    for layer in range(model.num_layers):
        found += layer_entries(model, layer, spec)
    found.append(Entry("decoder.final_layernorm.weight", "copy", ("model.norm.weight",)))
    if not model.tie_word_embeddings:
        found.append(Entry(MEGATRON_HEAD, "vocabulary", (HEAD,)))
    return found


def entries_by_megatron_name(model: ModelConfig) -> dict[str, Entry]:
    """Every name that any rank of either layer spec may hold.

    The last pipeline stage of a model with tied tables holds a copy under the head's name.
    """
    found = {
        entry.name: entry
        for spec in ("local", "transformer_engine")
        for entry in entries(model, spec)
    }
    found.setdefault(MEGATRON_HEAD, Entry(MEGATRON_HEAD, "vocabulary", (EMBEDDING,)))
    return found


def huggingface_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the folder, in the order of an exported file."""
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    kv_rows = model.num_query_groups * head_dim(model)
    by_suffix: dict[str, tuple[int, ...]] = {
        "q_proj.weight": (hidden, hidden),
        "k_proj.weight": (kv_rows, hidden),
        "v_proj.weight": (kv_rows, hidden),
        "q_proj.bias": (hidden,),
        "k_proj.bias": (kv_rows,),
        "v_proj.bias": (kv_rows,),
        "o_proj.weight": (hidden, hidden),
        "gate_proj.weight": (ffn, hidden),
        "up_proj.weight": (ffn, hidden),
        "down_proj.weight": (hidden, ffn),
        "embed_tokens.weight": (model.vocab_size, hidden),
        HEAD: (model.vocab_size, hidden),
    }
    return {
        source: by_suffix.get(".".join(source.split(".")[-2:]), (hidden,))
        for entry in entries(model)
        for source in entry.sources
    }


def _part(size: int, tp_rank: int, tp_size: int) -> slice:
    """Rows or columns of one shard of ``size``, which ``tp_size`` divides."""
    if size % tp_size:
        raise ValueError(f"{size} rows or columns cannot be divided over TP {tp_size}")
    width = size // tp_size
    return slice(tp_rank * width, (tp_rank + 1) * width)


def read_shard(
    entry: Entry, read: SliceReader, model: ModelConfig, tp_rank: int = 0, tp_size: int = 1
) -> Tensor:
    """One tensor-parallel shard of a megatron-core tensor, reading only what it consists of.

    Args:
        entry: which tensor.
        read: gives the asked part of a Hugging Face tensor.
        model: its shape; ``tp_size`` divides query groups and FFN.
        tp_rank: which shard.
        tp_size: of how many.
    """
    everything = slice(None)
    if entry.kind == "copy":
        return read(entry.sources[0], (everything,))
    if entry.kind == "columns":
        is_mlp = entry.name.endswith("linear_fc2.weight")
        width = model.ffn_hidden_size if is_mlp else model.hidden_size
        return read(entry.sources[0], (everything, _part(width, tp_rank, tp_size)))
    if entry.kind == "vocabulary":
        return _read_vocabulary(entry, read, model, tp_rank, tp_size)
    if entry.kind == "gate_up":
        rows = _part(model.ffn_hidden_size, tp_rank, tp_size)
        return torch.cat([read(source, (rows,)) for source in entry.sources])
    groups = _part(model.num_query_groups, tp_rank, tp_size)
    parts = []
    for source, heads in zip(entry.sources, _heads_of_a_group(model), strict=True):
        height = heads * head_dim(model)
        rows = slice(groups.start * height, groups.stop * height)
        part = read(source, (rows,))
        parts.append(part.reshape(groups.stop - groups.start, height, *part.shape[1:]))
    joined = torch.cat(parts, dim=1)
    return joined.flatten(0, 1)


def _heads_of_a_group(model: ModelConfig) -> tuple[int, int, int]:
    return model.num_attention_heads // model.num_query_groups, 1, 1


def _read_vocabulary(
    entry: Entry, read: SliceReader, model: ModelConfig, tp_rank: int, tp_size: int
) -> Tensor:
    rows = _part(-(-model.vocab_size // tp_size) * tp_size, tp_rank, tp_size)
    first, last = min(rows.start, model.vocab_size), min(rows.stop, model.vocab_size)
    table = read(entry.sources[0], (slice(first, last),))
    missing = rows.stop - rows.start - table.shape[0]
    if not missing:
        return table
    return torch.cat([table, table.new_zeros(missing, model.hidden_size)])


def join_shards(entry: Entry, shards: Sequence[Tensor]) -> Tensor:
    """The whole megatron-core tensor of TP 1 from its tensor-parallel shards."""
    if len(shards) == 1 or entry.kind == "copy":
        return shards[0]
    if entry.kind == "columns":
        return torch.cat(list(shards), dim=1)
    if entry.kind == "gate_up":
        halves = [shard.chunk(2) for shard in shards]
        return torch.cat([half[part] for part in (0, 1) for half in halves])
    return torch.cat(list(shards))


def to_huggingface(entry: Entry, whole: Tensor, model: ModelConfig) -> dict[str, Tensor]:
    """The Hugging Face tensors that a whole megatron-core tensor consists of, bit for bit.

    Args:
        entry: which tensor.
        whole: of TP 1 (see ``join_shards``); a table may carry padding rows.
        model: its shape.
    """
    if entry.kind == "vocabulary":
        return {entry.sources[0]: whole[: model.vocab_size]}
    if entry.kind == "gate_up":
        return dict(zip(entry.sources, whole.chunk(2), strict=True))
    if entry.kind != "qkv":
        return {entry.sources[0]: whole}
    heights = [heads * head_dim(model) for heads in _heads_of_a_group(model)]
    grouped = whole.reshape(model.num_query_groups, sum(heights), *whole.shape[1:])
    parts = grouped.split(heights, dim=1)
    return {source: part.flatten(0, 1) for source, part in zip(entry.sources, parts, strict=True)}
