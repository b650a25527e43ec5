"""From judged groups to the rows of one update: masks, weights, advantages, and this rank's micro-batches.

Every rank knows all groups of the step and so computes the same weights; it then keeps its own rows. Row
(slot, half, response) has number (2 slot + half) G + response, and data-parallel ranks take equal runs of
rows: all that belongs to a group is on one rank where slots can be dealt out evenly.

Shapes: P groups (slots) of a step, G responses of a group, L tokens of a response, R = 2 P G rows, B rows of
a micro-batch, S its width: prompt and response.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.schema import RlConfig
from ..diffusion.noise import NoiseStream, philox_words, unit_floats
from ..diffusion.rows import DEAD, PREDICTED, SEGMENT_START
from .objective import (
    Half,
    aggregated,
    coupled_halves,
    independent_halves,
    token_weights,
    trace_half,
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int32]
TRACE = 16  # purpose of the noise words that choose a rollout's step (diffusion/noise.py has the others)


@dataclass(frozen=True)
class Group:
    """One prompt's responses, ready for the objective.

    Attributes:
        prompt: token ids.
        tokens_GL: int32; any tokens in rows that are not there.
        opened_GL: int32, the step in which each opened.
        is_asked_GL: bool, tokens that may carry loss: none of PAD, none of responses that are not there or of
            groups that teach nothing.
        advantage_G: float64, 0 for those.
    """

    prompt: tuple[int, ...]
    tokens_GL: Integers
    opened_GL: Integers
    is_asked_GL: Bools
    advantage_G: Floats


@dataclass(frozen=True)
class Update:
    """Rows of one update.

    Attributes:
        groups: one a slot.
        masked_RL: bool.
        weight_RL: float64, 0 where there is no loss. The objective is the sum of weight x loss of a token.
        sequence_R: which response a row shows; both halves of one have the same number.
        length_R: masked tokens with loss of that response, in both halves.
    """

    groups: Sequence[Group]
    masked_RL: Bools
    weight_RL: Floats
    sequence_R: NDArray[np.int64]
    length_R: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.masked_RL)


def valid_tokens(tokens_L: Sequence[int], length: int, pad_loss: str) -> Bools:
    """Which tokens of a response may carry loss: those before its end, and its end if that is to learn.

    Args:
        tokens_L: of the response.
        length: tokens before the first that ends it.
        pad_loss: ``none`` or ``first``.
    """
    return np.arange(len(tokens_L)) < length + (pad_loss == "first")


def build_update(groups: Sequence[Group], rl: RlConfig, noise: NoiseStream, ordinal: int) -> Update:
    """Masks and weights of all rows.

    Args:
        groups: one a slot.
        rl: masks, weights, aggregation and ratio.
        noise: of the run.
        ordinal: of the update's first slot; slot k draws from ordinal + k.
    """
    size, length = groups[0].tokens_GL.shape
    shape = (len(groups), 2, size, length)
    masked, weight = np.zeros(shape, dtype=np.bool_), np.zeros(shape)
    for slot, group in enumerate(groups):
        for half, members in enumerate(_halves(group, rl, noise, ordinal + slot)):
            for number, one in enumerate(members):
                masked[slot, half, number] = one.masked_L
            if rl.masks == "trace":
                found = np.stack([token_weights(one, rl.weight, rl.cart_p) for one in members])
            else:
                found = token_weights(members[0], rl.weight, rl.cart_p)
            weight[slot, half] = found * group.is_asked_GL
    return _weighed(groups, masked, weight, rl)


def _halves(
    group: Group, rl: RlConfig, noise: NoiseStream, ordinal: int
) -> tuple[Sequence[Half], Sequence[Half]]:
    """Both masks of each response; but for traces the responses of a group share theirs."""
    size, length = group.tokens_GL.shape
    if rl.masks == "trace":
        words = philox_words(noise.key, ordinal, TRACE, 2 * size)
        u_2G = unit_floats(words).reshape(2, size)
        last_G = group.opened_GL.max(axis=1)
        first, second = (
            [
                trace_half(group.opened_GL[g], int(u_G[g] * (last_G[g] + 1)), rl.trace_steps)
                for g in range(size)
            ]
            for u_G in u_2G
        )
        return first, second
    draw = coupled_halves if rl.masks == "coupled" else independent_halves
    pair = draw(noise, ordinal, length, (rl.t_low, rl.t_high))
    return [pair[0]] * size, [pair[1]] * size


def _weighed(groups: Sequence[Group], masked: Bools, weight: Floats, rl: RlConfig) -> Update:
    slots, _, size, length = masked.shape
    slot, half, number, _ = np.nonzero(weight)
    sequence = slot * size + number
    weight[weight != 0] = aggregated(weight[weight != 0], slot, half, sequence, rl.aggregation)
    lengths = np.bincount(sequence, minlength=slots * size).reshape(slots, 1, size)
    if rl.ratio == "sequence":  # the ratio is the response's: what its tokens weigh, they share
        total = weight.sum(axis=(1, 3))[:, None, :, None]
        shared = total / np.maximum(lengths, 1)[..., None]
        weight = np.where(weight != 0, shared, 0.0)
    sequences = np.arange(slots * size).reshape(slots, 1, size)
    every = (slots, 2, size)
    return Update(
        groups,
        masked.reshape(-1, length),
        weight.reshape(-1, length),
        np.broadcast_to(sequences, every).reshape(-1),
        np.broadcast_to(lengths, every).reshape(-1),
    )


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of an update as the model takes them, on the device.

    Attributes:
        batch: tokens, flags, flags_full, labels, loss_weight [B, S], as data/batch.py names them.
        advantage_B: float32.
        sequence_B: int64, see ``Update``.
        length_B: float32.
    """

    batch: dict[str, Tensor]
    advantage_B: Tensor
    sequence_B: Tensor
    length_B: Tensor


def micro_batches(
    update: Update,
    *,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
    mask_id: int,
    pad_id: int,
    device: torch.device,
) -> Iterator[MicroBatch]:
    """This data-parallel rank's rows, in order.

    Weights are times R, and each row counts 1 in the loss's denominator: the quotient is the sum that
    ``Update`` speaks of, whatever ranks and micro-batches there are.
    """
    mine = update.num_rows // dp_size
    for first in range(dp_rank * mine, (dp_rank + 1) * mine, micro_batch_size):
        yield _micro_batch(update, range(first, first + micro_batch_size), mask_id, pad_id, device)


def _micro_batch(
    update: Update, rows: range, mask_id: int, pad_id: int, device: torch.device
) -> MicroBatch:
    size, length = update.groups[0].tokens_GL.shape
    groups = [update.groups[row // (2 * size)] for row in rows]
    width = max(len(group.prompt) for group in groups) + length
    tokens = np.full((len(rows), width), pad_id, dtype=np.int64)
    labels, weight = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=np.float32)
    flags = np.zeros(tokens.shape, dtype=np.uint8)
    flags[:, 0] = SEGMENT_START
    for index, (row, group) in enumerate(zip(rows, groups, strict=True)):
        begin = len(group.prompt)
        end = begin + length
        response = group.tokens_GL[row % size]
        tokens[index, :begin] = group.prompt
        tokens[index, begin:end] = np.where(update.masked_RL[row], mask_id, response)
        # The state at i - 1 predicts token i: the shift (SPEC 2).
        before = slice(begin - 1, end - 1)
        labels[index, before] = response
        weight[index, before] = update.weight_RL[row] * update.num_rows
        flags[index, before] |= (update.weight_RL[row] != 0).astype(np.uint8) * PREDICTED
        if end < width:
            flags[index, end:] = DEAD
            flags[index, end] |= SEGMENT_START
    advantage = [group.advantage_G[row % size] for row, group in zip(rows, groups, strict=True)]
    parts = {
        "tokens": tokens,
        "labels": labels,
        "loss_weight": weight,
        "flags": flags,
        "flags_full": flags,
    }
    chosen = list(rows)
    return MicroBatch(
        {name: torch.from_numpy(part).to(device) for name, part in parts.items()},
        torch.tensor(advantage, dtype=torch.float32, device=device),
        torch.from_numpy(update.sequence_R[chosen]).to(device),
        torch.from_numpy(update.length_R[chosen].astype(np.float32)).to(device),
    )
