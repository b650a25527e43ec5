"""ReMDM (2503.00307): tokens that were opened are masked again, the unsure ones more often."""

from __future__ import annotations

import torch

from .sampling_config import SamplingConfig
from .schedule import Schedule


def reopened(
    schedule: Schedule,
    step: int,
    confidence_BS: torch.Tensor,
    opened_BS: torch.Tensor,
    times_BS: torch.Tensor,
    uniforms_M: torch.Tensor,
    config: SamplingConfig,
) -> torch.Tensor:
    """Which tokens of a block become masks again after a step.

    With alpha = 1 - t, a token is masked with probability min(sigma_max, (1 - alpha_s) / alpha_t), which
    is min(sigma_max, s / (1 - t)), times softmax(-confidence) over the row's opened tokens of the block;
    one that has been masked ``remask_limit`` times stays.

    Args:
        schedule: of the block.
        step: of the block, not its last.
        confidence_BS: float32, of each token when it was opened; a probability or the like.
        opened_BS: bool, tokens of the block that were opened in it; never the prompt's.
        times_BS: int64, how often each position was masked again.
        uniforms_M: numbers in [0, 1) for the true positions of ``opened_BS``, row after row.
        config: resolved.

    Returns:
        bool [B, S].
    """
    t, s = float(schedule.times[step]), float(schedule.times[step + 1])
    sigma = min(config.sigma_max, s / (1 - t)) if t < 1 else config.sigma_max
    scores_BS = (-confidence_BS).masked_fill(~opened_BS, float("-inf"))
    weights_BS = torch.softmax(scores_BS, dim=-1)
    below_M = uniforms_M < sigma * weights_BS[opened_BS].to(uniforms_M.dtype)
    chosen_BS = opened_BS.masked_scatter(opened_BS, below_M)
    return chosen_BS & (times_BS < config.remask_limit)
