"""Masks and positions as callers give them, as attention takes them.

Part of an exported folder. Shapes: B rows, S positions.
"""

from __future__ import annotations

import torch

_MASK_HELP = "give [B, S] of 0 and 1, [B, S, S] or [B, 1, S, S]"


def attention_bias(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Any of the masks that ``forward`` takes, as scaled_dot_product_attention takes it.

    A query that may attend to nothing (padding) attends to itself: its output is never read, and
    a softmax over nothing would be NaN.
    """
    if attention_mask is None or isinstance(attention_mask, str):
        if attention_mask not in (None, "full"):
            raise ValueError(f"attention_mask is {attention_mask!r}: {_MASK_HELP}.")
        return None
    if attention_mask.dim() == 2:
        real_BS = attention_mask.bool()
        if bool(real_BS.all()):
            return None
        allowed = real_BS[:, None, :, None] & real_BS[:, None, None, :]
    elif attention_mask.dim() in (3, 4):
        allowed = attention_mask if attention_mask.dim() == 4 else attention_mask[:, None]
        if allowed.is_floating_point():
            return allowed.to(dtype)
        allowed = allowed.bool()
    else:
        raise ValueError(f"attention_mask is {list(attention_mask.shape)}: {_MASK_HELP}.")
    itself = torch.eye(*allowed.shape[-2:], dtype=torch.bool, device=allowed.device)
    return allowed | (~allowed.any(-1, keepdim=True) & itself)


def default_positions(
    attention_mask: torch.Tensor | None, batch: int, length: int, device: torch.device
) -> torch.Tensor:
    """0, 1, ... over the real positions of each row; padded ones get 1."""
    if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:
        real_BS = attention_mask.bool().to(device)
        return (real_BS.long().cumsum(-1) - 1).masked_fill(~real_BS, 1)
    return torch.arange(length, device=device).expand(batch, length)
