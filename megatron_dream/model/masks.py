"""Who attends to whom, from the segment flags that the data path made.

Shapes: B micro-batch, S sequence, Q = S / CP queries of this rank, K = S keys in gathered order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import LayoutError

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


def packed_segments(
    cu_seqlens: Tensor, *, micro_batch_size: int, cp_size: int, right_context: int | None
) -> Any:
    """The same segments as Transformer Engine takes them (THD), for rows of several segments.

    Not run on a GPU yet; what it cannot express is refused rather than computed otherwise.

    Args:
        cu_seqlens: int32 [segments + 1] over the flattened micro-batch.
        micro_batch_size: rows; THD has no batch dimension.
        cp_size: context-parallel ranks.
        right_context: as for ``attention_mask``.

    Raises:
        LayoutError: several rows, context parallelism, or annealing.
    """
    from megatron.core.packed_seq_params import PackedSeqParams

    if micro_batch_size > 1 or cp_size > 1 or right_context not in (None, 0):
        raise LayoutError(
            "Transformer Engine's attention takes documents and padding only at "
            "training.micro_batch_size 1, without context parallelism and without annealing; change "
            "that or set model.layer_spec to local"
        )
    longest = int(cu_seqlens.diff().max())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
