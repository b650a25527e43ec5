"""Weights of masked tokens (SPEC 3): ``inverse_t``, ``linear``, ``uniform``, CART and its control.

CART (Dream 7B, 2508.15487; public code of Dream-Coder): a masked token weighs more where unmasked
tokens are near,

    w_n = sum over context m != n in n's segment of 1/2 p (1 - p)^(|n - m| - 1).

Published code multiplies by a dense S x S matrix. Here each side is a first-order linear filter,
f_n = (1 - p) f_{n-1} + p c_{n-1}, O(S). A filter run over the whole row also sees the segments on
the left. What reaches position a + k of a segment from them is f_a (1 - p)^k, a its first position,
and is taken off again: any number of segments costs two filters. All terms lie in [0, 1] and all
powers decay, so nothing overflows and the error stays at 1e-15.

``cart_shuffled`` is the control for CART: the weights of a row are dealt at random among that row's masked
tokens. How much a row weighs and how its weights spread stay as they are; which token gets which does not.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Means over t in (0, 1]: per masked token E[w t] / E[t], per maskable token E[w t]. With CART
# E[w | t] is 1 - t up to the edges of a segment, so it shares the constants of ``linear``.
_NORMALIZERS = {
    "inverse_t": (2.0, 1.0),
    "linear": (1 / 3, 1 / 6),
    "uniform": (1.0, 1 / 2),
    "cart": (1 / 3, 1 / 6),
    "cart_shuffled": (1 / 3, 1 / 6),
}


def weight_normalizer(weight: str, denominator: str = "masked_tokens") -> float:
    """Mean weight over t, by which ``normalize_weight`` divides.

    Args:
        weight: ``inverse_t``, ``linear``, ``uniform``, ``cart`` or ``cart_shuffled``.
        denominator: what the loss is divided by, ``masked_tokens`` or ``maskable_tokens``.

    Raises:
        ValueError: another name.
    """
    if weight not in _NORMALIZERS:
        raise ValueError(f"Weight '{weight}' is unknown; choose from {', '.join(_NORMALIZERS)}.")
    if denominator not in ("masked_tokens", "maskable_tokens"):
        raise ValueError(
            f"Denominator '{denominator}' is unknown; choose masked_tokens or maskable_tokens."
        )
    return _NORMALIZERS[weight][denominator == "maskable_tokens"]


def time_weight(weight: str, t: float, t_min: float = 1e-3) -> float:
    """Weight of a row at time ``t`` for the weights that depend on t alone.

    ``inverse_t`` uses max(t, t_min): only the complement of a sample (time 1 - t) is below t_min.
    """
    if weight == "inverse_t":
        return 1.0 / max(t, t_min)
    if weight == "linear":
        return 1.0 - t
    if weight == "uniform":
        return 1.0
    raise ValueError(f"Weight '{weight}' does not depend on t alone; use cart_weights.")


@lru_cache(maxsize=16)
def _powers(decay: float, count: int) -> Floats:
    powers = decay ** np.arange(count, dtype=np.float64)
    powers.setflags(write=False)
    return powers


def _filter(context_BS: Floats, p: float) -> Floats:
    """f_n = sum over m < n of p (1 - p)^(n - m - 1) context_m, along the last axis."""
    return lfilter([0.0, p], [1.0, p - 1.0], context_BS, axis=-1)


def _segment_bounds(is_start_S: Bools) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """First and last position of each position's segment; None where there is one segment."""
    firsts = np.flatnonzero(is_start_S)
    if firsts.size == 0 or (firsts.size == 1 and firsts[0] == 0):
        return None
    if firsts[0] != 0:
        firsts = np.concatenate(([0], firsts))
    ends = np.append(firsts[1:], is_start_S.size)
    lengths = ends - firsts
    return np.repeat(firsts, lengths), np.repeat(ends - 1, lengths)


def cart_sums(is_context: Bools, is_start: Bools | None = None, *, p: float = 0.1) -> Floats:
    """CART's sum at every position, masked or not, float64 of ``is_context``'s shape.

    Args:
        is_context: [S] or [B, S], True where a token is unmasked and somebody attends to it.
        is_start: same shape, True where a segment starts; None: every row is one segment.
        p: in (0, 1], of the geometric distribution (0.1 in the public recipes).

    Raises:
        ValueError: p outside (0, 1], or shapes that differ.
    """
    if not 0.0 < p <= 1.0:
        raise ValueError(f"CART's p is {p}; it must lie in (0, 1].")
    if is_start is not None and is_start.shape != is_context.shape:
        raise ValueError(
            f"is_context has shape {is_context.shape}, is_start {is_start.shape}; they must agree."
        )
    if is_start is not None and is_context.ndim > 1:
        rows = [cart_sums(c, s, p=p) for c, s in zip(is_context, is_start, strict=True)]
        return np.stack(rows) if rows else np.zeros(is_context.shape)
    context = is_context.astype(np.float64)
    sides = _filter(np.stack((context, context[..., ::-1])), p)  # from the left, from the right
    bounds = None if is_start is None else _segment_bounds(is_start)
    if bounds is not None:
        length, positions = context.size, np.arange(context.size)
        mirrored = length - 1 - bounds[1][::-1]  # where segments start, read from the right
        for side, first in zip(sides, (bounds[0], mirrored), strict=True):
            side -= _powers(1.0 - p, length)[positions - first] * side[first]
    return 0.5 * (sides[0] + sides[1][..., ::-1])


def cart_weights(
    is_masked: Bools,
    is_attended: Bools | None = None,
    is_start: Bools | None = None,
    *,
    p: float = 0.1,
) -> Floats:
    """CART's weights: ``cart_sums`` at masked positions, 0 elsewhere.

    Args:
        is_masked: [S] or [B, S].
        is_attended: False on dead padding; None: no padding.
        is_start: True where a segment starts; None: every row is one segment.
        p: in (0, 1].
    """
    is_context = ~is_masked if is_attended is None else ~is_masked & is_attended
    return np.where(is_masked, cart_sums(is_context, is_start, p=p), 0.0)


def deal_weights(weights_S: Floats, is_dealt_S: Bools, order_S: Floats) -> Floats:
    """The weights of some tokens of a row dealt anew among them, every permutation as likely.

    Args:
        weights_S: of all tokens; those of others stay.
        is_dealt_S: whose weights are dealt.
        order_S: one uniform number a position; those of these tokens are ranked.
    """
    tokens = np.flatnonzero(is_dealt_S)
    dealt = weights_S.copy()
    dealt[tokens] = weights_S[tokens][np.argsort(order_S[tokens], kind="stable")]
    return dealt


def masked_weights(
    weight: str,
    is_masked_S: Bools,
    *,
    t: float,
    is_attended_S: Bools | None = None,
    is_start_S: Bools | None = None,
    cart_p: float = 0.1,
    t_min: float = 1e-3,
    order_S: Floats | None = None,
    is_dealt_S: Bools | None = None,
) -> Floats:
    """Weights of one row, float64 [S]: 0 where not masked; not normalised.

    ``cart_shuffled`` deals among the masked tokens, or those of them that ``is_dealt_S`` names.

    Raises:
        ValueError: ``cart_shuffled`` without ``order_S``, one uniform number a position.
    """
    if weight in ("cart", "cart_shuffled"):
        weights = cart_weights(is_masked_S, is_attended_S, is_start_S, p=cart_p)
        if weight == "cart":
            return weights
        if order_S is None:
            raise ValueError("cart_shuffled needs order_S, one uniform number a position.")
        is_dealt_S = is_masked_S if is_dealt_S is None else is_masked_S & is_dealt_S
        return deal_weights(weights, is_dealt_S, order_S)
    return is_masked_S.astype(np.float64) * time_weight(weight, t, t_min)
