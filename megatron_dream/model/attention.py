"""Core attention of the local layer spec, on torch's scaled dot product.

Bidirectional or causal, grouped queries, any boolean mask, and context parallelism by gathering
keys and values over the group (backward: reduce-scatter). Bidirectional attention does not care
about the order of keys, so megatron-core's zigzag slices serve as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..sampling.cache import KeyValueCache


class SegmentAttention(torch.nn.Module):
    """Softmax(Q K^T / sqrt(d)) V over the keys that the mask allows.

    Takes megatron-core's arguments of a core attention; ``attn_mask_type`` decides what an absent
    mask means: ``causal`` or all of the row.
    """

    def __init__(
        self,
        config: object,
        layer_number: int,
        attn_mask_type: object,
        attention_type: str,
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        pg_collection: object = None,
        **_: object,
    ) -> None:
        super().__init__()
        self.is_causal = getattr(attn_mask_type, "name", "") == "causal"
        self.softmax_scale = softmax_scale
        self.dropout = float(config.attention_dropout)  # type: ignore[attr-defined]
        self.kept: tuple[KeyValueCache, int, int] | None = None  # with layer and first column
        self.cp_group = pg_collection.cp if config.context_parallel_size > 1 else None  # type: ignore[attr-defined]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **_: object,
    ) -> Tensor:
        """Attend.

        Args:
            query: [Q, B, heads, head_dim], the positions of this context-parallel rank.
            key: [Q, B, kv_heads, head_dim], likewise.
            value: like ``key``.
            attention_mask: [B, 1, Q, K] or [B, 1, 1, K] boolean, True = attend, or None.

        Returns:
            [Q, B, heads * head_dim].
        """
        if self.cp_group is not None:
            from megatron.core.tensor_parallel import gather_from_sequence_parallel_region as gather

            key, value = gather(key, group=self.cp_group), gather(value, group=self.cp_group)
        keys, values = key.permute(1, 2, 0, 3), value.permute(1, 2, 0, 3)
        if self.kept is not None:
            cache, layer, start = self.kept
            keys, values = cache.write(layer, start, keys, values)
        attended = torch.nn.functional.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            keys,
            # A fifth of the CPU kernel's time otherwise: values come as a slice of the projection.
            values.contiguous() if self.kept is None else values,
            attn_mask=attention_mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.is_causal and attention_mask is None,
            scale=self.softmax_scale,
            enable_gqa=key.shape[2] != query.shape[2],
        )
        return attended.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)
