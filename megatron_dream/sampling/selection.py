"""Which of the masked positions open at a step, given a confidence for each.

Every algorithm is an order (most confident first, or a draw without replacement) and a number a
row. Equal confidences open from left to right. Shapes: B rows, S positions.
"""

from __future__ import annotations

import torch

from .filters import wide_float
from .sampling_config import ADAPTIVE, SamplingConfig


def select(
    confidence_BS: torch.Tensor,
    masked_BS: torch.Tensor,
    quota_B: torch.Tensor,
    uniforms_BS: torch.Tensor | None,
    is_last: bool,
    config: SamplingConfig,
) -> torch.Tensor:
    """Positions to open.

    Args:
        confidence_BS: float32, read where masked.
        masked_BS: bool, candidates; rows without any open nothing.
        quota_B: int64 on the CPU, how many open by the schedule; not read by adaptive algorithms
            before the last step, where everything opens.
        uniforms_BS: numbers in [0, 1) where alg_temp is over 0, else None.
        is_last: everything opens.
        config: resolved.

    Returns:
        bool [B, S].
    """
    if is_last:
        return masked_BS
    order = confidence_BS.to(wide_float(confidence_BS))
    if uniforms_BS is not None:
        # Gumbel's trick: the n largest of score + noise are n draws from softmax, none put back.
        tiny = torch.finfo(uniforms_BS.dtype).tiny
        noise = -torch.log(-torch.log(uniforms_BS.clamp(min=tiny)))
        order = order / config.alg_temp + noise
    order = order.masked_fill(~masked_BS, float("-inf"))
    sorted_BS, index_BS = torch.sort(order, dim=-1, descending=True, stable=True)
    if config.alg in ADAPTIVE:
        count_B = _adaptive_count(sorted_BS, masked_BS.sum(-1), config)
    else:
        count_B = quota_B.to(order.device)
    places = torch.arange(order.shape[-1], device=order.device)
    open_BS = torch.zeros_like(masked_BS)
    open_BS.scatter_(-1, index_BS, places < count_B[:, None])
    return open_BS & masked_BS


def _adaptive_count(
    sorted_BS: torch.Tensor, masked_B: torch.Tensor, config: SamplingConfig
) -> torch.Tensor:
    """How many of the sorted positions open; at least one where any is masked."""
    place = torch.arange(1, sorted_BS.shape[-1] + 1, device=sorted_BS.device)
    valid_BS = place <= masked_B[:, None]
    if config.alg == "threshold":
        # float32, as the confidences are: 0.9 must not fail against its own rounding.
        fits_BS = sorted_BS.float() >= config.threshold
    elif config.alg == "factor":
        fits_BS = (place + 1) * (1 - sorted_BS) <= config.factor
    else:  # entropy_bound: sum H - max H of a prefix is the sum of all but its last
        entropy_BS = (-sorted_BS).masked_fill(~valid_BS, 0)
        before_BS = entropy_BS.cumsum(-1).roll(1, dims=-1)
        before_BS[:, :1] = 0
        fits_BS = before_BS <= config.entropy_bound
    largest_B = (place * (fits_BS & valid_BS)).amax(-1)
    return torch.minimum(largest_B.clamp(min=1), masked_B)


def spread(values_N: torch.Tensor, where_BS: torch.Tensor) -> torch.Tensor:
    """Values of the true positions, row after row, back on the canvas; 0 elsewhere."""
    canvas = torch.zeros(where_BS.shape, dtype=values_N.dtype, device=values_N.device)
    return canvas.masked_scatter(where_BS, values_N)
