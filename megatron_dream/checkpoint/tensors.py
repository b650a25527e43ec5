"""Reading single tensors of a checkpoint without megatron-core and without process groups.

Export streams through a checkpoint with this: one layer's tensor in memory at a time. A tensor is
stored as chunks (one a layer and tensor-parallel rank), each a slice of a file; layers are the
first dimension.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .unpickle import check_metadata, restricted_reading


class TensorReader:
    """Global tensors of one checkpoint folder, by the names that megatron-core stores.

    Args:
        folder: a checkpoint folder (already verified).
    """

    def __init__(self, folder: Path | str) -> None:
        from torch.distributed.checkpoint import FileSystemReader
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata

        self.folder = Path(folder)
        check_metadata(self.folder / ".metadata")
        with restricted_reading():
            metadata = FileSystemReader(str(folder)).read_metadata()
        self._tensors = {
            name: entry
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        self._storage = {
            (index.fqn, tuple(index.offset)): info
            for index, info in metadata.storage_data.items()
            if index.offset is not None
        }

    def names(self) -> list[str]:
        """Names of all stored tensors, optimizer's included."""
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Global shape; per-layer tensors have the number of layers in front."""
        return tuple(self._entry(name).size)

    def read(self, name: str, layer: int | None = None) -> Tensor:
        """The whole tensor, or one layer of a per-layer tensor (without the layer dimension).

        Raises:
            CheckpointError: no such tensor, or chunks that do not cover it.
        """
        entry = self._entry(name)
        shape = list(entry.size)
        first = 0
        if layer is not None:
            shape[0], first = 1, layer
        result = torch.empty(shape, dtype=entry.properties.dtype)
        filled = 0
        for chunk in entry.chunks:
            offsets, sizes = list(chunk.offsets), list(chunk.sizes)
            if layer is not None and not offsets[0] <= layer < offsets[0] + sizes[0]:
                continue
            piece = self._read_chunk(name, tuple(offsets))
            if layer is not None:
                piece = piece[layer - offsets[0] : layer - offsets[0] + 1]
                offsets[0] = layer
            window = tuple(
                slice(
                    offset - (first if axis == 0 else 0), offset - (first if axis == 0 else 0) + n
                )
                for axis, (offset, n) in enumerate(zip(offsets, piece.shape, strict=True))
            )
            result[window].copy_(piece)
            filled += piece.numel()
        if filled != result.numel():
            raise CheckpointError(
                f"{self.folder}: the stored chunks of {name} cover {filled} of {result.numel()} "
                f"values; use another checkpoint"
            )
        return result[0] if layer is not None else result

    def _entry(self, name: str):  # type: ignore[no-untyped-def]
        if name not in self._tensors:
            raise CheckpointError(
                f"{self.folder} holds no tensor {name}; it is no checkpoint of this kind of model"
            )
        return self._tensors[name]

    def _read_chunk(self, name: str, offset: tuple[int, ...]) -> Tensor:
        info = self._storage[(name, offset)]
        if Path(info.relative_path).name != info.relative_path:
            raise CheckpointError(
                f"{self.folder}: {info.relative_path} leaves the folder; do not load it"
            )
        with open(self.folder / info.relative_path, "rb") as stream:
            stream.seek(info.offset)
            data = stream.read(info.length)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
