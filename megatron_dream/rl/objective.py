"""The policy objective as small pure functions: masks, ratio, clip, weights of tokens (SPEC 8).

A response's likelihood is estimated at masked positions. ``coupled`` draws one time and one set of numbers
for a group and uses both halves, A = {u < t} and B = {u >= t}: every response token is masked in exactly one.
``trace`` masks what the rollout opened at step k or later and asks for the next few steps' tokens alone.

Every aggregation is a weight for each masked token, so that the objective has SPEC 3's one form,
sum of weight x loss, whatever micro-batches and ranks the tokens are spread over.

Shapes: L response tokens, N masked tokens of the global batch in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..diffusion.noise import NoiseStream
from ..diffusion.weights import cart_weights, time_weight

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Aggregation = Literal["per_group_mask", "token_mean", "sequence_mean"]


@dataclass(frozen=True)
class Half:
    """One mask over a group's responses.

    Attributes:
        t: its time, the probability that a token is masked.
        masked_L: response positions that are masked.
        loss_L: those of them whose tokens are asked for.
    """

    t: float
    masked_L: Bools
    loss_L: Bools


def coupled_halves(
    noise: NoiseStream, ordinal: int, length: int, t_range: tuple[float, float] = (0.1, 0.9)
) -> tuple[Half, Half]:
    """Both masks of a group for one policy epoch.

    Args:
        noise: of the run.
        ordinal: of the group and epoch; a copy of a group has one of its own.
        length: response tokens.
        t_range: the time is uniform in it; published: (0, 1).

    Raises:
        ValueError: an impossible range.
    """
    low, high = t_range
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"t_range is {t_range}; give two times in order between 0 and 1.")
    t = low + (high - low) * noise.time(ordinal, t_min=0.0, low_discrepancy=False)
    is_first_L = noise.positions(ordinal, length) < t
    return Half(t, is_first_L, is_first_L), Half(1.0 - t, ~is_first_L, ~is_first_L)


def independent_halves(
    noise: NoiseStream, ordinal: int, length: int, t_range: tuple[float, float] = (0.1, 0.9)
) -> tuple[Half, Half]:
    """Two masks that know nothing of one another: what ``coupled_halves`` is compared with.

    Args: as there; the second draws from ordinal + 2**62.
    """
    first, _ = coupled_halves(noise, ordinal, length, t_range)
    second, _ = coupled_halves(noise, ordinal + (1 << 62), length, t_range)
    return first, second


def trace_half(opened_step_L: Integers, step: int, num_steps: int) -> Half:
    """The mask of a rollout's state before ``step``, with loss on the tokens of the next few steps.

    Args:
        opened_step_L: step at which each token opened.
        step: k.
        num_steps: m.
    """
    masked_L = opened_step_L >= step
    return Half(
        float(masked_L.mean()) if masked_L.size else 0.0,
        masked_L,
        masked_L & (opened_step_L < step + num_steps),
    )


def token_weights(half: Half, weight: Literal["cart", "inverse_t"], p: float = 0.1) -> Floats:
    """Weights [L] of a half's tokens, 0 where there is no loss; CART's context is the response alone.

    Args:
        half: one mask.
        weight: ``cart`` or ``inverse_t``.
        p: of CART.
    """
    if weight == "inverse_t":
        return half.loss_L.astype(np.float64) * time_weight("inverse_t", half.t)
    return np.where(half.loss_L, cart_weights(half.masked_L, p=p), 0.0)


def aggregated(
    weight_N: Floats, group_N: Integers, half_N: Integers, sequence_N: Integers, kind: Aggregation
) -> Floats:
    """Weights [N] that add up to one batch's objective.

    ``per_group_mask``: a mean over groups and halves of each one's weighted mean; those without weight do
    not count. ``token_mean``: one weighted mean over all. ``sequence_mean``: a mean over responses of the
    mean over each one's tokens.

    Args:
        weight_N: of each masked token, 0 for those without loss.
        group_N: which group.
        half_N: which half, 0 or 1.
        sequence_N: which response, over the whole batch.
        kind: see above.

    Raises:
        ValueError: another kind.
    """
    if kind == "token_mean":
        total = float(weight_N.sum())
        return weight_N / total if total else np.zeros_like(weight_N)
    if kind not in ("per_group_mask", "sequence_mean"):
        raise ValueError(
            f"aggregation {kind!r} is unknown: choose per_group_mask, token_mean or sequence_mean."
        )
    if kind == "per_group_mask":
        part_N = 2 * group_N + half_N
        size_P = np.bincount(part_N, weight_N)
    else:
        part_N = sequence_N
        size_P = np.bincount(part_N, weight_N > 0)
    count = int((size_P > 0).sum())
    if not count:
        return np.zeros_like(weight_N)
    divisor_N = np.where(size_P > 0, size_P, 1.0)[part_N] * count
    found: Floats = weight_N / divisor_N
    return found


@dataclass(frozen=True)
class PolicyLoss:
    """Loss of tokens, and what the update needs and reports.

    Attributes:
        loss_N: max(-A r, -A clip(r)).
        slope_N: its derivative by the log-probability.
        ratio_N: r.
        clipped_low_N: the lower bound acts.
        clipped_high_N: the upper bound acts.
    """

    loss_N: torch.Tensor
    slope_N: torch.Tensor
    ratio_N: torch.Tensor
    clipped_low_N: torch.Tensor
    clipped_high_N: torch.Tensor


def policy_loss(
    log_ratio_N: torch.Tensor,
    advantage_N: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> PolicyLoss:
    """The clipped loss with bounds of their own on both sides.

    Args:
        log_ratio_N: log p - log p_old; with ``sequence_log_ratio`` that of each token's response.
        advantage_N: of each token's response.
        clip_low: r counts as at least 1 minus this.
        clip_high: r counts as at most 1 plus this.
    """
    ratio_N = log_ratio_N.exp()
    bounded_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_N = torch.maximum(-advantage_N * ratio_N, -advantage_N * bounded_N)
    clipped_low_N = (ratio_N < 1.0 - clip_low) & (advantage_N < 0)
    clipped_high_N = (ratio_N > 1.0 + clip_high) & (advantage_N > 0)
    acts_N = ~(clipped_low_N | clipped_high_N)
    slope_N = torch.where(acts_N, -advantage_N * ratio_N, torch.zeros_like(ratio_N))
    return PolicyLoss(loss_N, slope_N, ratio_N, clipped_low_N, clipped_high_N)


def sequence_log_ratio(
    log_ratio_N: torch.Tensor, sequence_N: torch.Tensor, length_N: torch.Tensor, sequences: int
) -> torch.Tensor:
    """Log-ratio of each token's response: both halves' differences, summed, over its length (ESPO).

    Args:
        log_ratio_N: of tokens.
        sequence_N: int64, which response.
        length_N: of that response.
        sequences: how many there are.
    """
    sums = log_ratio_N.new_zeros(sequences).index_add_(0, sequence_N, log_ratio_N)
    return sums[sequence_N] / length_N
