"""From clean tokens and noise to what the model reads and is asked: one function for every stage.

The adapted network keeps the autoregressive habit (SPEC 2): the hidden state at i - 1 predicts
token i. So labels, weights and the PREDICTED flag of token i are stored at i - 1, rolled left
inside their segment, here in the data path: no rank ever needs its neighbour's column, and slicing
a row afterwards is harmless. Without the shift (a model from random weights may do without) all three
stay at i; what is masked is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .weights import masked_weights, weight_normalizer

SEGMENT_START = 1  # position starts a segment; a row and its dead padding always start one
PREDICTED = 2  # the next token carries loss here
DEAD = 4  # dead padding: attended by no real token, no loss
UNATTENDED = 8  # attends like the others of its segment, and is seen by itself alone

Bools = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Objective:
    """What is asked of the model: names and numbers of SPEC 1 to 3.

    Attributes:
        name: ``"diffusion"`` or ``"ar"``.
        weight: ``cart``, ``cart_shuffled``, ``inverse_t``, ``linear`` or ``uniform``; ``ar`` knows only 1.
        cart_p: in (0, 1].
        normalizer: what weights are divided by (``weight_normalizer``), 1 for none.
        t_min: smallest time, bounds 1/t.
        shift: position i - 1 predicts token i; False: position i does.
    """

    name: str = "diffusion"
    weight: str = "cart"
    cart_p: float = 0.1
    normalizer: float = 1.0
    t_min: float = 1e-3
    shift: bool = True

    @classmethod
    def of(
        cls,
        name: str = "diffusion",
        *,
        weight: str = "cart",
        cart_p: float = 0.1,
        normalize_weight: bool = True,
        denominator: str = "masked_tokens",
        t_min: float = 1e-3,
        shift: bool = True,
    ) -> Objective:
        """The objective with its normaliser looked up."""
        if name not in ("diffusion", "ar"):
            raise ValueError(f"Objective '{name}' is unknown; choose diffusion or ar.")
        constant = weight_normalizer(weight, denominator)  # also refuses unknown names
        normalizer = constant if normalize_weight and name == "diffusion" else 1.0
        if name == "ar" and not shift:
            raise ValueError("Under ar a position predicts the next token; leave shift true.")
        return cls(name, weight, cart_p, normalizer, t_min, shift)


@dataclass(frozen=True)
class EndRun:
    """The PAD tokens that end an answer, its EOS among them (SPEC 1).

    Attributes:
        start: position of the first.
        stop: one past the last.
        as_one: masked whole or kept whole, by the draw of the first.
        loss: which of the masked ones pay: ``all``; ``first``, that is the one at ``start``; ``mean``:
            all, with the weight of one token between them. What is changed is the weight alone: the loss
            is divided by the masked tokens as ever (SPEC 3).
    """

    start: int
    stop: int
    as_one: bool = False
    loss: str = "all"

    def draws(self, u_S: NDArray[np.float64]) -> NDArray[np.float64]:
        """The draws with one for the whole run, where it is masked as one."""
        if not self.as_one or self.stop - self.start < 2:
            return u_S
        u_S = u_S.copy()
        u_S[self.start : self.stop] = u_S[self.start]
        return u_S

    def is_dealt(self, length: int) -> Bools | None:
        """Where ``cart_shuffled`` deals weights anew, [length]; None: everywhere.

        Not among tokens that do not pay like others: dealt to them, a row's weight would be lost or gained.
        """
        if self.loss == "all" or self.stop - self.start < 2:
            return None
        positions = np.arange(length)
        return (positions < self.start) | (positions >= self.stop)

    def weigh(self, weight_S: NDArray[np.float32], is_asked_S: Bools) -> NDArray[np.float32]:
        """The weights with those of the run as ``loss`` says, in place."""
        run = weight_S[self.start : self.stop]
        if self.loss == "first":
            run[1:] = 0.0
        elif self.loss == "mean":
            run /= max(1, int(np.count_nonzero(is_asked_S[self.start : self.stop])))
        return weight_S


@dataclass(frozen=True)
class NoisedRow:
    """What ``noise_row`` makes, each [S].

    tokens int32: model input. labels int32: the next token of the same segment, 0 where there is
    none; without the shift the token itself. loss_weight float32: of that label. flags uint8: see the
    constants above. num_maskable: an integer.
    """

    tokens: NDArray[np.int32]
    labels: NDArray[np.int32]
    loss_weight: NDArray[np.float32]
    flags: NDArray[np.uint8]
    num_maskable: int


def segment_starts(segment_lengths: Sequence[int], length: int, num_dead: int = 0) -> Bools:
    """True where a segment starts, bool [length].

    Args:
        segment_lengths: of the real segments, in order, all positive.
        length: of the row.
        num_dead: dead tokens at the end; they form a segment of their own.

    Raises:
        ValueError: the lengths do not add up to the row's.
    """
    lengths = np.asarray(segment_lengths, dtype=np.int64)
    total = int(lengths.sum()) + num_dead
    if total != length or num_dead < 0 or (lengths <= 0).any():
        raise ValueError(
            f"Segments {lengths.tolist()} and {num_dead} dead tokens do not make a row of {length}."
        )
    is_start = np.zeros(length, dtype=np.bool_)
    ends = lengths.cumsum()
    is_start[ends[:-1]] = True
    is_start[0] = True
    if num_dead:
        is_start[length - num_dead] = True
    return is_start


def shift_left(values_S: NDArray[T], is_start_S: Bools) -> NDArray[T]:
    """Roll left by one inside segments: out[i] = values[i + 1], 0 where a segment ends."""
    out = np.zeros_like(values_S)
    np.multiply(values_S[1:], ~is_start_S[1:], out=out[:-1])
    return out


def draw_mask(maskable_S: Bools, u_S: NDArray[np.float64], t: float, complement: bool) -> Bools:
    """Each maskable token independently with probability t: u < t; or exactly the others."""
    return maskable_S & ((u_S >= t) if complement else (u_S < t))


def complement_time(t: float) -> float:
    """Time of the complementary mask: a token is in it with probability 1 - t."""
    return 1.0 - t


def noise_row(
    x0_S: NDArray[np.integer],
    segment_lengths: Sequence[int],
    objective: Objective,
    *,
    u_S: NDArray[np.float64] | None = None,
    t: float = 1.0,
    mask_token_id: int = 0,
    num_dead: int = 0,
    is_maskable_S: Bools | None = None,
    is_attended_S: Bools | None = None,
    end: EndRun | None = None,
    complement: bool = False,
    order_S: NDArray[np.float64] | None = None,
) -> NoisedRow:
    """One row: mask, weigh, shift, flag.

    Never maskable, whatever ``is_maskable_S`` says: the first token of a segment (nothing predicts
    it) and dead padding. Under ``ar`` nothing is masked and every maskable token carries weight 1.

    Args:
        x0_S: clean token ids, dead padding included.
        segment_lengths: of the real segments; attention and shift stay inside one.
        objective: which, and how weighed.
        u_S: one uniform number a position, in [0, 1) (``NoiseStream.positions``).
        t: time of the sample; for ``complement`` the time of its partner.
        mask_token_id: M.
        num_dead: dead tokens at the end of the row.
        is_maskable_S: False where a token may not be masked (a prompt); None: everywhere True.
        is_attended_S: False where no other token attends (filling behind an answer), which is no context
            for CART then; None: everywhere True.
        end: the run of PAD that ends an answer.
        complement: use the complement mask among the maskable tokens, at time 1 - t.
        order_S: one uniform number a position, for ``cart_shuffled`` (``NoiseStream.weight_order``).

    Raises:
        ValueError: segments that do not fill the row, or diffusion without ``u_S``.
    """
    length = x0_S.shape[0]
    is_start = segment_starts(segment_lengths, length, num_dead)
    is_real = np.ones(length, dtype=np.bool_)
    is_real[length - num_dead :] = False
    maskable = is_real & ~is_start
    if is_maskable_S is not None:
        maskable &= is_maskable_S
    tokens = x0_S.astype(np.int32)
    if objective.name == "ar":
        is_asked, weight = maskable, maskable.astype(np.float32)
    else:
        if u_S is None:
            raise ValueError("Diffusion needs u_S, one uniform number a position.")
        u_S = u_S if end is None else end.draws(u_S)
        is_asked = draw_mask(maskable, u_S, t, complement)
        is_context = is_real if is_attended_S is None else is_real & is_attended_S
        at = complement_time(t) if complement else t
        is_dealt = None if end is None else end.is_dealt(length)
        weight = _weights(objective, is_asked, is_context, is_start, at, order_S, is_dealt)
    if end is not None:
        weight = end.weigh(weight, is_asked)
    labels, is_predicted = tokens.copy(), is_asked
    if objective.shift:
        labels, weight = shift_left(labels, is_start), shift_left(weight, is_start)
        is_predicted = shift_left(is_asked, is_start)
    if num_dead:
        labels[length - num_dead :] = 0
    if objective.name != "ar":
        tokens[is_asked] = mask_token_id
    return NoisedRow(
        tokens=tokens,
        labels=labels,
        loss_weight=weight,
        flags=row_flags(is_start, num_dead, is_predicted, is_attended_S),
        num_maskable=int(np.count_nonzero(maskable)),
    )


def row_flags(
    is_start_S: Bools,
    num_dead: int,
    is_predicted_S: Bools | None = None,
    is_attended_S: Bools | None = None,
) -> NDArray[np.uint8]:
    """Flags of a row, uint8 [S]; without ``is_predicted_S`` what middle pipeline stages need."""
    flags = is_start_S.astype(np.uint8)  # SEGMENT_START is 1
    if is_predicted_S is not None:
        flags |= is_predicted_S.astype(np.uint8) << 1  # PREDICTED is 2
    if is_attended_S is not None:
        flags |= (~is_attended_S).astype(np.uint8) << 3  # UNATTENDED is 8
    if num_dead:
        flags[flags.size - num_dead :] |= DEAD
    return flags


def _weights(
    objective: Objective,
    is_masked: Bools,
    is_context: Bools,
    is_start: Bools,
    t: float,
    order: NDArray[np.float64] | None,
    is_dealt: Bools | None,
) -> NDArray[np.float32]:
    weight = masked_weights(
        objective.weight,
        is_masked,
        t=t,
        is_attended_S=is_context,
        is_start_S=is_start,
        cart_p=objective.cart_p,
        t_min=objective.t_min,
        order_S=order,
        is_dealt_S=is_dealt,
    )
    return (weight / objective.normalizer).astype(np.float32)
