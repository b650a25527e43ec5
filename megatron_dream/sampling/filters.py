"""top_p and top_k on rows of logits: exact, and without sorting the whole vocabulary if it can."""

from __future__ import annotations

import torch

_HEAD = 256  # logits sorted first; rows whose nucleus is wider are sorted whole


def top_p_filter(logits_NV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of most probable tokens whose sum exceeds ``top_p``.

    The token that crosses the threshold stays, hence the first always does. Equal logits are
    ordered by id, so that the result does not depend on a sorting routine.

    Args:
        logits_NV: float32 [N, V].
        top_p: 1 or more keeps everything.

    Returns:
        float32 [N, V], removed tokens at minus infinity.
    """
    if top_p >= 1 or logits_NV.numel() == 0:
        return logits_NV
    probs_NV = torch.softmax(logits_NV, dim=-1)
    width = min(_HEAD, logits_NV.shape[-1])
    keep_NV, enough_N = _nucleus(logits_NV, probs_NV, top_p, width)
    if width < logits_NV.shape[-1] and not bool(enough_N.all()):
        wide = (~enough_N).nonzero().squeeze(-1)
        keep_NV[wide], _ = _nucleus(logits_NV[wide], probs_NV[wide], top_p, logits_NV.shape[-1])
    return logits_NV.masked_fill(~keep_NV, float("-inf"))


def _nucleus(
    logits_NV: torch.Tensor, probs_NV: torch.Tensor, top_p: float, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens stay, looking at the ``width`` largest; and whether these were enough [N]."""
    values_NK, index_NK = logits_NV.topk(width, dim=-1)
    total_NK = probs_NV.gather(-1, index_NK).to(wide_float(logits_NV)).cumsum(-1)
    kept_N = 1 + (total_NK[:, :-1] <= top_p).sum(-1)
    last_N1 = values_NK.gather(-1, kept_N[:, None] - 1)
    above_NV = logits_NV > last_N1
    equal_NV = logits_NV == last_N1
    room_N1 = kept_N[:, None] - above_NV.sum(-1, keepdim=True)
    if bool((equal_NV.sum(-1, keepdim=True) > room_N1).any()):
        equal_NV &= equal_NV.cumsum(-1) <= room_N1
    return above_NV | equal_NV, total_NK[:, -1] > top_p


def top_k_filter(logits_NV: torch.Tensor, top_k: int) -> torch.Tensor:
    """Keep the ``top_k`` largest logits and all that equal the last of them.

    Args:
        logits_NV: float32 [N, V].
        top_k: 0, or V and more, keeps everything.

    Returns:
        float32 [N, V], removed tokens at minus infinity.
    """
    if top_k == 0 or top_k >= logits_NV.shape[-1]:
        return logits_NV
    least_N1 = logits_NV.topk(top_k, dim=-1).values[:, -1:]
    return logits_NV.masked_fill(logits_NV < least_N1, float("-inf"))


def wide_float(like: torch.Tensor) -> torch.dtype:
    """float64, or float32 on a device that has no other."""
    return torch.float32 if like.device.type == "mps" else torch.float64
