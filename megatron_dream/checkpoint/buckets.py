"""Optimizer shards (``dp_reshardable``) and buckets: what megatron-core refuses or writes wrongly.

**Loading into buffers that are cut into other buckets.** The format names its tensors by bucket. Buckets
depend on ``overlap_grad_reduce``, on ``bucket_size`` and, by its default, on the number of data-parallel
ranks above 40; megatron-core refuses to load where they differ. Inside a bucket every parameter has a place
that follows from the order and sizes of the parameters alone, so that the places of a saved file are known
from the lengths of its buckets.

**Saving a bucket that ends with a gap.** The bucket before a table that two pipeline stages share ends at the
table's aligned start. The gap's tensor is made as long as the shard, beyond the bucket's end.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ..errors import CheckpointError
from .tensors import TensorReader

_BUCKET = re.compile(r"\.bucket_idx_\d+\.")
_ALIGNMENT = 64  # values, of a parameter's start in a buffer of the distributed optimizer


def follow_saved_buckets(state: dict[str, Any], optimizer: Any, reader: TensorReader) -> None:
    """Make an optimizer's state dict for loading ask for the buckets that were saved.

    Args:
        state: ``optimizer_state(..., is_loading=True)`` in the format ``dp_reshardable``; changed.
        optimizer: megatron-core's distributed optimizer, alone in its chain.
        reader: of the checkpoint.

    Raises:
        CheckpointError: the saved buckets are of another model.
    """
    (inner,) = getattr(optimizer, "chained_optimizers", [optimizer])
    names = set(reader.names())
    saved = state["param_state"]
    saved.pop("per_bucket_numel", None)  # megatron-core compares them
    saved.pop("per_bucket_numel_unpadded", None)
    for number, ranges_by_dtype in enumerate(inner.gbuf_ranges):
        for dtype, ranges in ranges_by_dtype.items():
            held = saved[number][dtype]
            key = _some_key(held)
            if key is None:  # nothing of this buffer is on this rank
                continue
            sizes = _saved_sizes(key, reader, names)
            places = saved_places(inner.buffers[number], sizes, reader.folder)
            for entries, found in zip(held, ranges, strict=True):
                entries[:] = [entry for entry in entries if not entry["padding"].unwrap()]
                for entry, (parameter, place) in zip(
                    entries, found["param_map"].items(), strict=True
                ):
                    _ask_for(entry, *places[parameter], place["param"].start, sizes)


def clip_gaps(state: dict[str, Any]) -> None:
    """End every gap of an optimizer's state dict for saving where its bucket ends; changes ``state``."""
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace

    def clip(value: Any) -> Any:
        if not isinstance(value, ShardedTensor) or not _BUCKET.search(value.key):
            return value
        length = min(value.local_shape[0], value.global_shape[0] - value.global_offset[0])
        return dataclasses.replace(value, data=value.data[:length], local_shape=(length,))

    dict_list_map_inplace(clip, state)


def saved_places(buffer: Any, sizes: list[int], folder: Any) -> dict[Any, tuple[int, int]]:
    """Bucket and start in it of every parameter, in buckets of the given lengths.

    Args:
        buffer: with the parameters, in their order.
        sizes: values of each saved bucket, without the padding at its end.
        folder: of the checkpoint, for the error.

    Raises:
        CheckpointError: these parameters do not fill those buckets.
    """
    places, bucket, position = {}, 0, 0
    for parameter in buffer.param_index_map:
        start = -(-position // _ALIGNMENT) * _ALIGNMENT
        if start + parameter.numel() > sizes[bucket]:
            is_full = position <= sizes[bucket] <= start
            bucket, start = bucket + 1, 0
            if not is_full or bucket == len(sizes) or parameter.numel() > sizes[bucket]:
                raise CheckpointError(
                    f"{folder}: the optimizer's buckets are of another model; compare its "
                    f"megatron_dream.json with the configuration"
                )
        places[parameter] = (bucket, start)
        position = start + parameter.numel()
    return places


def _some_key(held: list[list[dict[str, Any]]]) -> str | None:
    from megatron.core.dist_checkpointing import ShardedTensor

    values = (v for entries in held for entry in entries for v in entry.values())
    return next((value.key for value in values if isinstance(value, ShardedTensor)), None)


def _saved_sizes(key: str, reader: TensorReader, names: set[str]) -> list[int]:
    """Values of the buckets 0, 1, ... that were saved of the buffer that ``key`` is of."""
    sizes: list[int] = []
    while (name := _BUCKET.sub(f".bucket_idx_{len(sizes)}.", key)) in names:
        sizes += reader.shape(name)
    if not sizes:
        raise CheckpointError(
            f"{reader.folder} holds no optimizer shards of this rank; compare its megatron_dream.json with "
            f"the configuration"
        )
    return sizes


def _ask_for(entry: dict[str, Any], bucket: int, start: int, first: int, sizes: list[int]) -> None:
    """Point a parameter's part at its place: values from ``first`` of the parameter on."""
    from megatron.core.dist_checkpointing import ShardedTensor

    for name, value in entry.items():
        if isinstance(value, ShardedTensor):
            entry[name] = dataclasses.replace(
                value,
                key=_BUCKET.sub(f".bucket_idx_{bucket}.", value.key),
                global_shape=(sizes[bucket],),
                global_offset=(start + first,),
            )
