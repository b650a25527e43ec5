"""Core attention of the local layer spec, on torch's scaled dot product.

Bidirectional or causal, grouped queries, any boolean mask, and context parallelism by gathering
keys and values over the group (backward: reduce-scatter). Bidirectional attention does not care
about the order of keys, so megatron-core's zigzag slices serve as they are. Takes rows and a mask, or
one packed sequence and its segments (THD) as Transformer Engine does.
"""

from __future__ import annotations

from typing import Any

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
        packed_seq_params: Any = None,
        **_: object,
    ) -> Tensor:
        """Attend.

        Args:
            query: [Q, B, heads, head_dim], the positions of this context-parallel rank.
            key: [Q, B, kv_heads, head_dim], likewise.
            value: like ``key``.
            attention_mask: [B, 1, Q, K] or [B, 1, 1, K] boolean, True = attend, or None.
            packed_seq_params: segments (masks.py) of tokens without a batch dimension, [Q, heads,
                head_dim], or None.

        Returns:
            [Q, B, heads * head_dim], or [Q, heads, head_dim] of segments.
        """
        if packed_seq_params is not None:
            return self._by_segment(query, key, value, packed_seq_params)
        key, value = self._gathered(key), self._gathered(value)
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

    def _by_segment(self, query: Tensor, key: Tensor, value: Tensor, segments: Any) -> Tensor:
        """Each segment by itself: its queries on this rank and its keys on all.

        Every rank holds its 1 / CP of each segment, padding included, in one order; a gathered segment is
        then the same slice of every rank's part.
        """
        cp_size = 1 if self.cp_group is None else self.cp_group.size()
        key, value = (self._gathered(x).unflatten(0, (cp_size, -1)) for x in (key, value))
        places = self._gathered(segments.positions).view(cp_size, -1)
        ends = segments.cu_seqlens_q_padded
        ends = segments.cu_seqlens_q if ends is None else ends
        starts = (ends // cp_size).tolist()
        lengths = segments.cu_seqlens_q.diff().tolist()
        attended = []
        for first, last, length in zip(starts, starts[1:], lengths, strict=False):
            part = slice(first, last)
            keys, values = key[:, part].flatten(0, 1), value[:, part].flatten(0, 1)
            mask = self._segment_mask(segments.positions[part], places[:, part].flatten(), length)
            attended.append(self._attend(query[part], keys, values, mask))
        return torch.cat(attended)

    def _gathered(self, x: Tensor) -> Tensor:
        if self.cp_group is None:
            return x
        from megatron.core.tensor_parallel import gather_from_sequence_parallel_region as gather

        return gather(x, group=self.cp_group)

    def _segment_mask(self, queries_Q: Tensor, keys_K: Tensor, length: int) -> Tensor | None:
        """What a segment's queries see: no padding, and under ``causal`` nothing to their right."""
        if not self.is_causal:
            return None if length == len(keys_K) else (keys_K < length).unsqueeze(0)
        return (keys_K[None, :] <= queries_Q[:, None]) & (keys_K < length)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """[Q, heads, head_dim] of one segment; mask boolean [Q, K] or [1, K]."""
        attended = torch.nn.functional.scaled_dot_product_attention(
            query.transpose(0, 1),
            key.transpose(0, 1),
            value.transpose(0, 1),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.softmax_scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return attended.transpose(0, 1)
