"""Who attends to whom, from the segment flags that the data path made.

Shapes: B micro-batch, S sequence, Q = S / CP queries of this rank, K = S keys in gathered order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

SEGMENT_START, UNATTENDED = 1, 8  # bits of data/batch.py's flags


def zigzag_positions(sequence_length: int, cp_rank: int, cp_size: int) -> Tensor:
    """Positions that context-parallel rank ``cp_rank`` holds: chunks r and 2 CP - 1 - r of 2 CP."""
    if cp_size == 1:  # of any length, odd ones too
        return torch.arange(sequence_length)
    chunks = torch.arange(sequence_length).view(2 * cp_size, -1)
    return torch.cat([chunks[cp_rank], chunks[2 * cp_size - 1 - cp_rank]])


def attention_mask(
    flags_BS: Tensor, *, right_context: int | None, cp_rank: int = 0, cp_size: int = 1
) -> Tensor | None:
    """Boolean mask [B, 1, Q, K], True where the query attends; None where every query sees its row.

    Args:
        flags_BS: uint8 flags of the whole rows (not sliced for context parallelism).
        right_context: how many positions to the right a query sees; None: all (bidirectional),
            0: causal, between: annealing from one to the other.
        cp_rank: this rank in its context-parallel group.
        cp_size: size of that group. Keys stand in the order of an all-gather over it.
    """
    starts_BS = (flags_BS & SEGMENT_START).bool()
    unseen_BS = (flags_BS & UNATTENDED).bool()
    length = flags_BS.shape[1]
    one_segment = bool((starts_BS.sum(dim=1) == 1).all() & ~unseen_BS.any())
    causal_alone = right_context == 0 and cp_size == 1
    if one_segment and (right_context is None or causal_alone):
        return None  # the attention's own mask type says full or causal
    queries = zigzag_positions(length, cp_rank, cp_size)
    keys = torch.cat([zigzag_positions(length, rank, cp_size) for rank in range(cp_size)])
    queries, keys = queries.to(flags_BS.device), keys.to(flags_BS.device)
    segment_BS = starts_BS.int().cumsum(dim=1)
    mask_BQK = segment_BS[:, queries].unsqueeze(2) == segment_BS[:, keys].unsqueeze(1)
    # Whoever else looks, a query sees itself: no row of the softmax is empty.
    mask_BQK &= ~unseen_BS[:, keys].unsqueeze(1) | (queries[:, None] == keys[None, :])
    if right_context is not None:
        mask_BQK &= keys[None, :] <= queries[:, None] + right_context
    return mask_BQK.unsqueeze(1)


_LONGEST_UNIT = 128  # tokens; kernels and tables are kept by the longest segment


@cache
def segments_class() -> Any:
    """The class of ``packed_segments``; made on first use (see device.py)."""
    from megatron.core.packed_seq_params import PackedSeqParams

    @dataclass
    class Segments(PackedSeqParams):
        """megatron-core's description of a packed sequence, and what the local layers need of it.

        Attributes:
            positions: int64 [T / CP], each token's place in its segment.
        """

        positions: Tensor | None = None

    return Segments


def packed_segments(batch: dict[str, Tensor], *, cp_size: int) -> Any:
    """The segments of a packed micro-batch (data/packing.py), as both layer specs take them (THD).

    Args:
        batch: with ``cu_seqlens``, ``cu_seqlens_padded``, ``longest`` and ``positions``.
        cp_size: context-parallel ranks. Without, segments have no padding between them, and Transformer
            Engine may then take FlashAttention.
    """
    longest = -(-int(batch["longest"]) // _LONGEST_UNIT) * _LONGEST_UNIT
    padded = batch["cu_seqlens_padded"] if cp_size > 1 else None
    return segments_class()(
        qkv_format="thd",
        cu_seqlens_q=batch["cu_seqlens"],
        cu_seqlens_kv=batch["cu_seqlens"],
        cu_seqlens_q_padded=padded,
        cu_seqlens_kv_padded=padded,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        positions=batch["positions"],
    )
