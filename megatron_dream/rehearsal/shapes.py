"""What each class of ranks holds: real model, gradient buffers and optimizer on tensors without memory.

A class is a pipeline stage and a tensor-parallel rank; its data- and context-parallel ranks hold the same
weights, and of the optimizer a shard each. The model is built for every class; buffers and optimizer once for
classes whose parameters have the same shapes in the same order.
"""

from __future__ import annotations

import dataclasses
import gc
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..checkpoint.host_memory import SaveMemory, save_memory
from ..checkpoint.shards import Part, buffers_of, empty_shard, shard_parts
from ..checkpoint.state import (
    choose_optimizer_format,
    model_state,
    optimizer_state,
    sharding_options,
)
from ..config.layout import Layout
from ..config.schema import RunConfig
from ..errors import LayoutError
from ..model.build import build_model
from ..parallel import Ranks
from ..training.optimizer import build_optimizer, wrap_data_parallel
from .world import imagined_rank

_LAYER = re.compile(r"\.layers\.(\d+)\.")
# What megatron-core raises where it cannot build something.
_REFUSALS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Stored(NamedTuple):
    """One tensor of a rank as a checkpoint knows it."""

    key: str
    offset: tuple[int, ...]  # in the whole tensor
    whole: int  # elements of the whole tensor
    size: int  # bytes here
    itemsize: int  # bytes of a value
    is_main: bool  # this tensor- and pipeline-parallel rank is the one that writes it


@dataclasses.dataclass
class RankClass:
    """What the ranks of one stage and tensor-parallel rank hold.

    Attributes:
        stage: pipeline rank.
        tp_rank: tensor-parallel rank.
        members: global ranks, in the order of their data-parallel group (with context parallelism).
        layers: global numbers of its layers, from 0.
        has_embedding: whether it holds the table.
        has_head: whether it makes the logits.
        shapes: name to shape, layers folded into one name where they are alike.
        parameters: how many.
        weight_bytes: of them.
        gradient_bytes: of the gradient buffers, padding included.
        optimizer_bytes: of a rank's fp32 copy and moments.
        num_buckets: of the gradient buffers.
        tensors: what a checkpoint holds of the model.
        optimizer_tensors: what it holds of an optimizer that all these ranks hold alike, or gather.
        shard_parts: of each member, the parts of its optimizer shards (dp_reshardable).
        save: host memory of a save on one rank.
    """

    stage: int
    tp_rank: int
    members: list[int]
    layers: list[int]
    has_embedding: bool
    has_head: bool
    shapes: dict[str, list[int]]
    parameters: int
    weight_bytes: int
    tensors: list[Stored]
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    num_buckets: int = 0
    optimizer_tensors: list[Stored] = dataclasses.field(default_factory=list)
    shard_parts: list[list[Part]] = dataclasses.field(default_factory=list)
    save: SaveMemory = dataclasses.field(default_factory=lambda: SaveMemory(0, 0, 0))
    optimizer_format: str = ""


def rank_classes(config: RunConfig, layout: Layout, *, variable_lengths: bool) -> list[RankClass]:
    """Build every class of ranks.

    Args:
        config: of the run, prepared; its layers are local ones.
        layout: of the imagined processes.
        variable_lengths: micro-batches differ in width.

    Raises:
        LayoutError: what megatron-core refuses on some rank, or could not save.
    """
    found: list[RankClass] = []
    known: dict[Any, RankClass] = {}
    for stage in range(layout.pp):
        for tp_rank in range(layout.tp):
            first = tp_rank + stage * layout.world_size // layout.pp
            try:
                with imagined_rank(config.parallel, first, layout.world_size) as ranks:
                    found.append(_build(config, ranks, known, variable_lengths))
            except _REFUSALS as error:
                line = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
                raise LayoutError(
                    f"rank {first} (stage {stage}, TP rank {tp_rank}) cannot be built: {line}; change the "
                    f"layout or the model [{layout.equation()}]"
                ) from error
            gc.collect()  # models are cycles, which hold their groups
    return found


def _build(
    config: RunConfig, ranks: Ranks, known: dict[Any, RankClass], variable_lengths: bool
) -> RankClass:
    chunks = build_model(
        config.model,
        config.parallel,
        config.training,
        ranks,
        objective=config.diffusion.objective,
        draws_weights=False,
        variable_lengths=variable_lengths,
    )
    made = _class_of(chunks, ranks)
    alike = (
        ranks.pp_rank == 0,
        tuple((n, tuple(p.shape)) for c in chunks for n, p in c.named_parameters()),
    )
    if (like := known.get(alike)) is None:
        known[alike] = made
        _add_optimizer(made, chunks, config, ranks)
    else:
        _copy_optimizer(like, made)
    return made


def _class_of(chunks: list[Any], ranks: Ranks) -> RankClass:
    import torch.distributed as dist

    named = [(name, p) for chunk in chunks for name, p in _global_parameters(chunk)]
    options = sharding_options("dp_reshardable", ranks)
    return RankClass(
        stage=ranks.pp_rank,
        tp_rank=ranks.tp_rank,
        members=dist.get_process_group_ranks(ranks.dp_cp_group),
        layers=[layer.layer_number - 1 for chunk in chunks for layer in chunk.decoder.layers],
        has_embedding=any(chunk.pre_process for chunk in chunks),
        has_head=any(chunk.post_process for chunk in chunks),
        shapes=_folded(named),
        parameters=sum(p.numel() for _, p in named),
        weight_bytes=sum(p.numel() * p.element_size() for _, p in named),
        tensors=list(_stored(model_state(chunks, options))),
    )


def _global_parameters(chunk: Any) -> Iterator[tuple[str, Any]]:
    from ..model.initialize import global_parameters

    return global_parameters(chunk)


def _folded(named: list[tuple[str, Any]]) -> dict[str, list[int]]:
    """Shapes by name; layers that are alike under one name with a star."""
    shapes: dict[str, list[int]] = {}
    for name, parameter in named:
        folded, shape = _LAYER.sub(".layers.*.", name), list(parameter.shape)
        shapes[name if shapes.setdefault(folded, shape) != shape else folded] = shape
    return shapes


def _stored(state: Any) -> Iterator[Stored]:
    """The tensors of a sharded state dict as they are written: factories applied."""
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    for value in nested_values(state):
        if isinstance(value, ShardedTensorFactory):
            built = value.build()
            yield from _stored(built if isinstance(built, (dict, list)) else [built])
        elif isinstance(value, ShardedTensor):
            whole = 1
            for length in value.global_shape:
                whole *= length
            itemsize = value.data.element_size()
            size = value.data.numel() * itemsize
            # The last number counts data-parallel replicas, of which one is chosen later.
            main = not any(value.replica_id[:-1])
            yield Stored(value.key, tuple(value.global_offset), whole, size, itemsize, main)


def _add_optimizer(made: RankClass, chunks: list[Any], config: RunConfig, ranks: Ranks) -> None:
    """Wrap the chunks and build the optimizer, as a run does, and note what they take."""
    wrapped = wrap_data_parallel(chunks, config)
    optimizer = build_optimizer(wrapped, config)
    buffers = buffers_of(wrapped)
    made.gradient_bytes = sum(b.grad_data.numel() * b.grad_data.element_size() for b in buffers)
    made.num_buckets = sum(len(buffer.buckets) for buffer in buffers)
    made.optimizer_format = choose_optimizer_format(
        config.checkpoint.optimizer_format, wrapped, ranks
    )
    made.save = save_memory(wrapped, optimizer, ranks, made.optimizer_format, pins=True)
    if made.optimizer_format == "dp_reshardable" and (fault := empty_shard(wrapped)):
        raise LayoutError(fault)
    options = sharding_options(made.optimizer_format, ranks)
    state = optimizer_state(optimizer, model_state(wrapped, options), options)
    made.optimizer_bytes = _optimizer_bytes(optimizer)
    if made.optimizer_format == "fully_reshardable":
        made.optimizer_tensors = list(_stored(state))
        return
    made.shard_parts = [
        [
            part
            for buffer in buffers
            for bucket in range(len(buffer.buckets))
            for part in shard_parts(buffer, bucket, index)
        ]
        for index in range(len(made.members))
    ]


def _optimizer_bytes(optimizer: Any) -> int:
    """Of the fp32 copy, where there is one, and the moments on this rank."""
    total = 0
    for inner in getattr(optimizer, "chained_optimizers", [optimizer]):
        tensors = [t for state in inner.optimizer.state.values() for t in state.values()]
        if inner.config.bf16:
            tensors += [p for group in inner.optimizer.param_groups for p in group["params"]]
        total += sum(
            t.numel() * t.element_size() for t in tensors if hasattr(t, "numel") and t.dim()
        )
    return total


def _copy_optimizer(like: RankClass, made: RankClass) -> None:
    """Of a class whose parameters have the same shapes; places in whole tensors are its own."""
    for name in ("gradient_bytes", "optimizer_bytes", "num_buckets", "optimizer_format"):
        setattr(made, name, getattr(like, name))
    made.save, made.shard_parts = like.save, like.shard_parts
    mine = {
        (there.key, there.offset): here
        for there, here in zip(like.tensors, made.tensors, strict=True)
    }
    for tensor in like.optimizer_tensors:
        _, _, state, key = tensor.key.split(".", 3)  # optimizer.state.exp_avg.KEY
        here = mine[(key, tensor.offset)]
        made.optimizer_tensors.append(
            here._replace(
                key=f"optimizer.state.{state}.{here.key}",
                size=tensor.size,
                itemsize=tensor.itemsize,
            )
        )
