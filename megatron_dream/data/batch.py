"""Micro-batches: rows stacked into one buffer, sent to a tensor-parallel group, sliced for CP.

Shapes follow from micro-batch size, width and pipeline stage, so every rank knows the buffer's
length beforehand and one broadcast of uint8 carries all of it. Rows shorter than the micro-batch are
filled with dead padding here, where nothing is drawn any more: it is layout only. Shapes: B
micro-batch, S sequence, the micro-batch's width.

What goes in, by stage: first tokens and flags; last labels, weights, flags and what describes a
row; middle flags only; a stage that is both, all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..diffusion.rows import DEAD, PREDICTED, SEGMENT_START, UNATTENDED
from .packing import Packing, pack_rows
from .stream import Row

__all__ = [
    "DEAD",
    "PREDICTED",
    "SEGMENT_START",
    "UNATTENDED",
    "BatchLayout",
    "broadcast",
    "cu_seqlens_of",
]

_DTYPES = {
    "ordinal": torch.int64,
    "tokens": torch.int32,
    "labels": torch.int32,
    "loss_weight": torch.float32,
    "t": torch.float32,
    "source": torch.int32,
    "num_maskable": torch.int32,
    "flags": torch.uint8,
}  # in the buffer's order: widest first, so that every part is aligned
_PER_TOKEN = ("tokens", "labels", "loss_weight", "flags")
_FIRST_STAGE = {"tokens", "flags"}
_LAST_STAGE = {"labels", "loss_weight", "flags", "t", "source", "ordinal", "num_maskable"}


@dataclass(frozen=True)
class BatchLayout:
    """Names, types and places of a micro-batch's tensors in its buffer.

    Attributes:
        micro_batch_size: B.
        sequence_length: S.
        is_first_stage: the model chunk embeds tokens.
        is_last_stage: the model chunk computes the loss.
        pad_id: token of dead padding.
    """

    micro_batch_size: int
    sequence_length: int
    is_first_stage: bool = True
    is_last_stage: bool = True
    pad_id: int = 0

    def of_width(self, width: int) -> BatchLayout:
        """The same for rows of ``width`` tokens."""
        return self if width == self.sequence_length else replace(self, sequence_length=width)

    def of_buffer(self, buffer: Tensor) -> BatchLayout:
        """The same for the width that a buffer's length tells."""
        per_token = self.of_width(1).num_bytes - self.of_width(0).num_bytes
        return self.of_width((buffer.numel() - self.of_width(0).num_bytes) // per_token)

    @property
    def names(self) -> tuple[str, ...]:
        """What this stage needs, in the buffer's order."""
        needed = {"flags"}
        needed |= _FIRST_STAGE if self.is_first_stage else set()
        needed |= _LAST_STAGE if self.is_last_stage else set()
        return tuple(name for name in _DTYPES if name in needed)

    @property
    def needs_noise(self) -> bool:
        """Whether more than flags is needed."""
        return self.is_first_stage or self.is_last_stage

    def shape(self, name: str) -> tuple[int, ...]:
        """[B, S] of what is per token, [B] of what is per row."""
        if name in _PER_TOKEN:
            return self.micro_batch_size, self.sequence_length
        return (self.micro_batch_size,)

    @property
    def num_bytes(self) -> int:
        """Length of the buffer."""
        return sum(prod(self.shape(name)) * _DTYPES[name].itemsize for name in self.names)

    def pack(self, rows: Sequence[Row]) -> Tensor:
        """Rows as one uint8 buffer [num_bytes] on the CPU, shorter ones with dead padding behind them."""
        if len(rows) != self.micro_batch_size:
            raise ValueError(
                f"{len(rows)} rows do not make a micro-batch of {self.micro_batch_size}."
            )
        buffer = torch.empty(self.num_bytes, dtype=torch.uint8)
        for name, part in self.unpack(buffer).items():
            view = part.numpy()
            for index, row in enumerate(rows):
                self._fill(name, view, index, getattr(row, name))
        return buffer

    def pack_flags(self, flags: Sequence[np.ndarray]) -> Tensor:
        """The buffer of a middle stage: flags of each row."""
        view = np.empty((len(flags), self.sequence_length), dtype=np.uint8)
        for index, row in enumerate(flags):
            self._fill("flags", view, index, row)
        return torch.from_numpy(view).view(-1)

    def _fill(self, name: str, view: np.ndarray, index: int, values: Any) -> None:
        """Row ``index`` of ``view``: the row's values, then those of dead padding."""
        if name not in _PER_TOKEN or len(values) == self.sequence_length:
            view[index] = values
            return
        length = len(values)
        view[index, :length] = values
        view[index, length:] = {"tokens": self.pad_id, "flags": DEAD}.get(name, 0)
        if name == "flags":
            view[index, length] |= SEGMENT_START

    def unpack(self, buffer: Tensor) -> dict[str, Tensor]:
        """Views into ``buffer``, by name, in their types on the wire."""
        parts, start = {}, 0
        for name in self.names:
            end = start + prod(self.shape(name)) * _DTYPES[name].itemsize
            parts[name] = buffer[start:end].view(_DTYPES[name]).view(self.shape(name))
            start = end
        return parts


def broadcast(
    buffer: Tensor | None,
    layout: BatchLayout,
    *,
    group: dist.ProcessGroup | None,
    source: int,
    is_reader: bool,
    device: torch.device,
) -> Tensor:
    """The reading rank's buffer on every rank of the tensor-parallel group, on ``device``.

    Args:
        buffer: uint8 [num_bytes]; only the reading rank's is looked at.
        layout: of the buffer, the same on all ranks.
        group: tensor-parallel group; None: this rank alone.
        source: global rank of the reader.
        is_reader: whether this rank is it.
        device: where the result lives.
    """
    if is_reader:
        if buffer is None or buffer.numel() != layout.num_bytes:
            raise ValueError("The reading rank must give a buffer of the layout's length.")
        sent = buffer.to(device, non_blocking=True)
    else:
        sent = torch.empty(layout.num_bytes, dtype=torch.uint8, device=device)
    if group is not None and dist.get_world_size(group) > 1:
        dist.broadcast(sent, src=source, group=group)
    return sent


def zigzag_slice(values_BS: Tensor, cp_rank: int, cp_size: int) -> Tensor:
    """Columns of a context-parallel rank: of 2 x CP chunks those numbered r and 2 CP - 1 - r.

    Under causal attention every rank then has equal work. Noise, weights and shift were made on
    whole rows, so that slicing loses nothing.
    """
    if cp_size == 1:
        return values_BS
    length = values_BS.shape[1]
    if length % (2 * cp_size):
        raise ValueError(
            f"A row of {length} tokens cannot be cut into 2 x CP = {2 * cp_size} chunks."
        )
    chunks = values_BS.unflatten(1, (2 * cp_size, length // (2 * cp_size)))
    pair = torch.stack((chunks[:, cp_rank], chunks[:, 2 * cp_size - 1 - cp_rank]), dim=1)
    return pair.flatten(1, 2)


def cu_seqlens_of(flags_BS: Tensor) -> Tensor:
    """Segment starts in the B x S flattened tokens, then B x S: int32 [segments + 1]."""
    starts = torch.nonzero((flags_BS.reshape(-1) & SEGMENT_START) != 0).view(-1)
    return torch.cat((starts, starts.new_tensor([flags_BS.numel()]))).to(torch.int32)


def segment_ids_of(flags_BS: Tensor) -> Tensor:
    """Number of each token's segment inside its row, int64 [B, S], from 0."""
    return (flags_BS & SEGMENT_START).ne(0).cumsum(dim=1) - 1


def to_batch(
    buffer: Tensor,
    layout: BatchLayout,
    *,
    cp_rank: int = 0,
    cp_size: int = 1,
    has_whole_rows: bool = False,
    packing: Packing | None = None,
) -> dict[str, Tensor]:
    """What a model chunk reads.

    Integers become int64, but ``flags`` (uint8) and ``cu_seqlens`` (int32). [B, S] tensors are
    sliced for context parallelism; ``flags_full`` and ``cu_seqlens`` describe whole rows.

    Args:
        buffer: uint8 [num_bytes], on the device.
        layout: of the buffer.
        cp_rank: in the context-parallel group.
        cp_size: of that group.
        has_whole_rows: every row is one segment; ``cu_seqlens`` then needs no look at the flags,
            which on a GPU would wait for them.
        packing: the rows become one sequence [1, T] (packing.py); None: they stay rows.
    """
    parts = layout.unpack(buffer)
    if packing is not None:
        packed = pack_rows(parts, packing, pad_id=layout.pad_id, cp_rank=cp_rank, cp_size=cp_size)
        return {
            name: part.long() if part.dtype == torch.int32 and "cu_" not in name else part
            for name, part in (parts | packed).items()
        }
    flags_full = parts["flags"]
    if has_whole_rows:
        total, step = flags_full.numel(), layout.sequence_length
        cu_seqlens = torch.arange(0, total + 1, step, dtype=torch.int32, device=buffer.device)
    else:
        cu_seqlens = cu_seqlens_of(flags_full)
    batch = {"flags_full": flags_full, "cu_seqlens": cu_seqlens}
    for name, part in parts.items():
        if name in _PER_TOKEN:
            part = zigzag_slice(part, cp_rank, cp_size)
        batch[name] = part.long() if part.dtype == torch.int32 else part
    return batch
