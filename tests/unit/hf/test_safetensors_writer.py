"""The streaming writer against the safetensors library, byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from megatron_dream.hf.reader import INDEX_NAME
from megatron_dream.hf.safetensors_writer import num_bytes, plan_shards, write_safetensors

SHAPES: dict[str, tuple[int, ...]] = {"a": (3, 5), "b": (7,), "c": (2, 2), "d": (11, 1)}


def values() -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_library_reads_the_same_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = values()
    total = write_safetensors(tmp_path, SHAPES, tensors.items(), dtype, 50)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    assert index["metadata"]["total_size"] == total
    assert total == sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
    found = {}
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(tmp_path / file, framework="pt") as handle:
            assert handle.metadata() == {"format": "pt"}
        part = load_file(tmp_path / file)
        assert all(index["weight_map"][name] == file for name in part)
        found |= part
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name].to(dtype)) for name in tensors)


def test_data_is_what_the_library_writes(tmp_path: Path) -> None:
    tensors = values()
    write_safetensors(tmp_path, SHAPES, tensors.items(), torch.float32)
    save_file(tensors, tmp_path / "library.safetensors", metadata={"format": "pt"})

    def data(path: Path) -> tuple[dict[str, object], bytes]:
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        assert (8 + length) % 8 == 0
        return json.loads(content[8 : 8 + length]), content[8 + length :]

    ours, theirs = (
        data(tmp_path / "model-00001-of-00001.safetensors"),
        data(tmp_path / "library.safetensors"),
    )
    assert ours == theirs


def test_a_tensor_is_let_go_before_the_next_is_made(tmp_path: Path) -> None:
    """A stream that refuses to make a second tensor while the first is alive."""
    import gc
    import weakref

    last: list[weakref.ref[torch.Tensor]] = []

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in SHAPES.items():
            gc.collect()
            # The one just written is still bound in the writer's loop; none before it may be.
            assert sum(reference() is not None for reference in last) <= 1
            tensor = torch.zeros(shape)
            last.append(weakref.ref(tensor))
            yield name, tensor
            del tensor

    write_safetensors(tmp_path, SHAPES, stream(), torch.bfloat16, 40)


@pytest.mark.parametrize("fault", ["order", "short", "long", "shape"])
def test_a_stream_that_does_not_match_is_refused(tmp_path: Path, fault: str) -> None:
    items = list(values().items())
    if fault == "order":
        items.reverse()
    elif fault == "short":
        items.pop()
    elif fault == "long":
        items.append(("e", torch.zeros(1)))
    else:
        items[1] = ("b", torch.zeros(6))
    with pytest.raises(ValueError, match="stream"):
        write_safetensors(tmp_path, SHAPES, items, torch.float32)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), limit=st.integers(1, 200))
def test_shards_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    shapes: dict[str, tuple[int, ...]] = {f"t{n}": (size,) for n, size in enumerate(sizes)}
    shards = plan_shards(shapes, torch.float32, limit)
    assert [name for shard in shards for name in shard] == list(shapes)
    for shard in shards:
        held = sum(num_bytes(shapes[name], torch.float32) for name in shard)
        assert shard and (held <= limit or len(shard) == 1)
