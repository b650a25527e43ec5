"""Corruption for infilling of unknown length (SPEC 6, DreamOn): a middle learns to grow and shrink.

EOS tokens are put behind the middle, to be deleted by the sampler; runs of masked tokens are closed up into
one ``<|expand|>``, which the sampler opens into two masks. What is closed up leaves the row before
positions, shift and weights are made: a mask is always predicted from a token that is there.

A pure function of tokens and draws. Shapes: M middle, A appended, K kept of M + A.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_APPENDED = 63


@dataclass(frozen=True)
class InfillingDraws:
    """All that is random of one row.

    Attributes:
        t: time of the sample.
        u_M: one uniform number a middle token: masked below t.
        coins: one uniform number for each of M + A, decides what is closed up.
        num_appended: A, EOS tokens behind the middle.
        fades: whether the probability of closing up falls with the masked share.
    """

    t: float
    u_M: Floats
    coins: Floats
    num_appended: int
    fades: bool


@dataclass(frozen=True)
class Middle:
    """A corrupted middle, each [K].

    Attributes:
        tokens: int32, what the model reads.
        targets: int32, what belongs there: a token, ``<|expand|>``, or EOS for deletion.
        is_masked: bool, where loss is.
        weight: float64, of the masked: 1 - t; all EOS targets together weigh as one token.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    is_masked: NDArray[np.bool_]
    weight: Floats


def corrupt_middle(
    middle_M: NDArray[np.integer],
    draws: InfillingDraws,
    *,
    mask_id: int,
    eos_id: int,
    expand_id: int,
    expand_probability: float = 0.5,
) -> Middle:
    """Mask, append, close up.

    Where a position and the next are both masked, it swallows the next with probability q, which may have
    swallowed its own next before: runs become one ``<|expand|>``. From the first EOS on nothing swallows,
    but the token before may swallow that EOS. q is ``expand_probability``, or that times the unmasked share
    of the middle as it was before EOS tokens were appended.

    Args:
        middle_M: clean ids.
        draws: of this row.
        mask_id: M's id.
        eos_id: deletes.
        expand_id: grows.
        expand_probability: of swallowing.
    """
    masked_M = draws.u_M < draws.t
    share = float(masked_M.mean()) if masked_M.size else 0.0
    q = expand_probability * ((1.0 - share) if draws.fades else 1.0)
    appended = np.full(draws.num_appended, eos_id, dtype=np.int32)
    targets = np.concatenate([middle_M.astype(np.int32), appended])
    is_masked = np.concatenate([masked_M, np.ones(draws.num_appended, dtype=np.bool_)])
    swallows = is_masked & (draws.coins < q)
    swallows[:-1] &= is_masked[1:]
    swallows[-1:] = False
    swallows[np.cumsum(targets == eos_id) > 0] = False
    is_kept = np.ones(targets.size, dtype=np.bool_)
    is_kept[1:] = ~swallows[:-1]
    targets = np.where(swallows, expand_id, targets)[is_kept].astype(np.int32)
    is_masked = is_masked[is_kept]
    weight = is_masked * (1.0 - draws.t)
    deletes = is_masked & (targets == eos_id)
    weight[deletes] /= max(1, int(deletes.sum()))
    tokens = np.where(is_masked, mask_id, targets).astype(np.int32)
    return Middle(tokens, targets, is_masked, weight)
