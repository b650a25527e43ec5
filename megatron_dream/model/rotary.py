"""Rotary position embedding of the local layer spec.

megatron-core's unfused rotation makes six tensors a call and keeps track of each for the backward
pass. A rotation's gradient is the rotation by the opposite angle, so one function does for both.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from .composed import compiled, rotate_both


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    # [B, heads, S, d] in memory, as attention reads it.
    length, batch, heads, size = x.shape
    rotated = x.new_empty(batch, heads, length, size).permute(2, 0, 1, 3)
    x1, x2 = x.chunk(2, dim=-1)
    out1, out2 = rotated.chunk(2, dim=-1)
    torch.mul(x1, cos, out=out1).addcmul_(x2, sin, value=-sign)
    torch.mul(x2, cos, out=out2).addcmul_(x1, sin, value=sign)
    return rotated


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad_outputs[0], cos, sin, -1), None, None


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate each pair (x[i], x[i + d/2]) by its position's angle (Qwen2's halves, not neighbours).

    Args:
        x: [S, B, heads, d].
        angles: [S, 1, 1, d] fp32 radians, the second half a copy of the first.
    """
    half = angles[..., : angles.shape[-1] // 2]
    rotated: Tensor = _Rotation.apply(x, half.cos().to(x.dtype), half.sin().to(x.dtype))
    return rotated


@cache
def self_attention_class() -> Any:
    """megatron-core's SelfAttention with this rotation; made on first use (see device.py)."""
    from megatron.core.transformer.attention import SelfAttention

    class RotarySelfAttention(SelfAttention):
        """Rotates queries and keys where they are made, and hides the angles from what follows."""

        _angles: Tensor | None = None

        def forward(self, *args: Any, rotary_pos_emb: Tensor | None = None, **kwargs: Any) -> Any:
            segments = kwargs.get("packed_seq_params")
            if segments is not None and rotary_pos_emb is not None:
                rotary_pos_emb = rotary_pos_emb[segments.positions]
            self._angles = rotary_pos_emb
            return super().forward(*args, rotary_pos_emb=None, **kwargs)

        def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
            query, key, *others = super().get_query_key_value_tensors(*args, **kwargs)
            if self._angles is not None and getattr(self.config, "compiles_parts", False):
                query, key = compiled(rotate_both)(query, key, self._angles)
            elif self._angles is not None:
                query, key = rotate(query, self._angles), rotate(key, self._angles)
            return (query, key, *others)

    return RotarySelfAttention
