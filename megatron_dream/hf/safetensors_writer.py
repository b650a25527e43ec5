"""Writing sharded safetensors from a stream of tensors, so that no second copy of a model exists.

A file is: 8 bytes little-endian length of the header, the header (JSON: name -> dtype, shape,
offsets into the data), the data. All shapes are known before the first tensor, so headers are
written first.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..files import write_json
from .reader import INDEX_NAME

MAX_SHARD_BYTES = 5_000_000_000
DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float32: "F32"}

Shapes = Mapping[str, tuple[int, ...]]


def num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of one tensor's data."""
    return math.prod(shape) * dtype.itemsize


def plan_shards(
    shapes: Shapes, dtype: torch.dtype, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[list[str]]:
    """Deal tensors to files in order; a tensor larger than the limit gets a file of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = num_bytes(shape, dtype)
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def header_bytes(names: Iterable[str], shapes: Shapes, dtype: torch.dtype) -> bytes:
    """Length and header of one file, padded with spaces so that the data begins at a multiple of 8."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        end = start + num_bytes(shapes[name], dtype)
        header[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shapes[name]),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_tensor(stream: IO[bytes], tensor: Tensor, dtype: torch.dtype) -> None:
    flat = tensor.detach().to("cpu", dtype).contiguous().view(-1)
    stream.write(memoryview(flat.view(torch.uint8).numpy()))


def write_safetensors(
    folder: Path,
    shapes: Shapes,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Write all tensors and the index into ``folder``.

    Args:
        folder: exists; the caller makes it appear atomically.
        shapes: every tensor, in the order in which ``tensors`` yields them.
        tensors: name and value; each is let go before the next is asked for.
        dtype: bfloat16 or float32; values are converted.
        max_shard_bytes: of data in a file.

    Returns:
        Bytes of data in all files.

    Raises:
        ValueError: the stream does not match ``shapes`` (a bug of the caller).
    """
    shards = plan_shards(shapes, dtype, max_shard_bytes)
    stream = iter(tensors)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with open(folder / file_name, "wb") as file:
            file.write(header_bytes(names, shapes, dtype))
            for expected in names:
                name, tensor = next(stream, (None, None))
                if tensor is None or name != expected or tuple(tensor.shape) != shapes[expected]:
                    raise ValueError(
                        f"expected {expected} {shapes[expected]}, the stream has {name}"
                    )
                _write_tensor(file, tensor, dtype)
                weight_map[expected] = file_name
    if next(stream, None) is not None:
        raise ValueError("the stream has more tensors than planned")
    total = sum(num_bytes(shape, dtype) for shape in shapes.values())
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return total
