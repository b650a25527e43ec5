"""What the bound bounds, where it can be counted out, and the left-to-right chain beside it (SPEC 9).

A masked model has a probability for each order in which the tokens of a continuation may be opened, and
these differ unless its conditionals agree with one another. With p_s the product along order s:

    exact   log of the mean over orders of p_s: the likelihood of sampling in random order
    bound   mean over orders of log p_s: what ``loglikelihood`` estimates, never above exact (Jensen)
    chain   log p_s of the one order from left to right: neither a bound nor a limit of the others

Both means go over the 2^L sets of masks instead of the L! orders: with F(m) the value of a masked set,
F(m) = mean over i in m of p(i | m) F(m without i), and the same with sums of logs for the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bound import Request, text_of
from .draws import Floats, every_mask
from .masked_model import BATCH_SIZE, MaskedModel, masked_scores


@dataclass(frozen=True)
class Enumerated:
    """Three numbers of one continuation, nats, and what they are made of.

    Attributes:
        bound: mean over orders of log p.
        exact: log of the mean over orders of p.
        chain: log p from left to right.
        cross_entropy_ML: float64, of each masked token under each of ``draws.every_mask``; 0 elsewhere.
    """

    bound: float
    exact: float
    chain: float
    cross_entropy_ML: Floats


@dataclass(frozen=True)
class Chain:
    """The left-to-right chain of one continuation.

    Attributes:
        loglikelihood: nats; tokens to the right are masked, the EOS behind them is seen.
        is_greedy: every token is the most probable one at its turn.
    """

    loglikelihood: float
    is_greedy: bool


def enumerate_orders(
    model: Any, context: Sequence[int], continuation: Sequence[int], batch_size: int = BATCH_SIZE
) -> Enumerated:
    """All sets of masks of a short continuation.

    Args:
        model: as ``loglikelihood`` takes it.
        context: ids.
        continuation: ids, 16 at most.
        batch_size: rows of a forward pass.

    Raises:
        ValueError: too long.
    """
    masked = MaskedModel.of(model)
    text = text_of(masked, Request(context, continuation))
    masks_ML = every_mask(text.length)
    table_ML = np.zeros(masks_ML.shape)
    for part in masked_scores(masked, [text], [masks_ML], batch_size):
        table_ML[part.row_N, part.offset_N] = part.cross_entropy_N
    return of_table(table_ML)


def of_table(cross_entropy_ML: Floats) -> Enumerated:
    """The three numbers from the cross-entropies under every set of masks, float64 [2^L - 1, L]."""
    sets, length = cross_entropy_ML.shape
    bound, exact = np.zeros(sets + 1), np.zeros(sets + 1)  # of each set, by its bits; [0]: nothing
    for bits in range(1, sets + 1):
        inside = [i for i in range(length) if bits >> i & 1]
        rest = [bits & ~(1 << i) for i in inside]
        log_p = -cross_entropy_ML[bits - 1, inside]
        bound[bits] = (log_p + bound[rest]).mean()
        exact[bits] = np.logaddexp.reduce(log_p + exact[rest]) - np.log(len(inside))
    # masked from i on: the bits of i and all above it
    chain = -sum(cross_entropy_ML[sets - (1 << i), i] for i in range(length))
    return Enumerated(float(bound[-1]), float(exact[-1]), float(chain) + 0.0, cross_entropy_ML)


def chain_loglikelihoods(
    model: Any,
    requests: Sequence[Request],
    *,
    batch_size: int = BATCH_SIZE,
    max_length: int | None = None,
    append_eos: bool = True,
) -> list[Chain]:
    """The chain of many continuations, one row a token.

    Args:
        model: as ``loglikelihood`` takes it.
        requests: their questions do not matter: nothing is drawn.
        batch_size: rows of a forward pass.
        max_length: as in ``loglikelihoods``.
        append_eos: likewise.
    """
    masked = MaskedModel.of(model)
    texts = [text_of(masked, one, max_length, append_eos) for one in requests]
    sums, are_greedy = np.zeros(len(texts)), np.ones(len(texts), dtype=bool)
    masks = [np.triu(np.ones((text.length, text.length), dtype=bool)) for text in texts]
    first = [np.eye(text.length, dtype=bool) for text in texts]
    for part in masked_scores(masked, texts, masks, batch_size, first):
        np.add.at(sums, part.text_N, part.cross_entropy_N)
        np.logical_and.at(are_greedy, part.text_N, part.is_best_N)
    return [Chain(float(-s) + 0.0, bool(g)) for s, g in zip(sums, are_greedy, strict=True)]
