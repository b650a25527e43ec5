"""``loglikelihood``: the masked-diffusion bound of a continuation (SPEC 9).

A row is context, continuation, EOS; only the continuation is ever masked, never a row's first token, which
nothing predicts, nor the EOS. The result is a lower bound of log p under random orders: minus the mean
over all orders of opening the tokens of -log of their product of probabilities.

Differs from the published evaluation: numbers come from (seed, question, draw, position) and not from a
global generator, so that a score does not depend on what else is scored and choices of a question share
their draws; sets of masks that repeat run once; no logits are made of what is not masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .draws import Floats, MaskPlan, check_draws, plan_masks
from .masked_model import BATCH_SIZE, MaskedModel, Text, masked_scores

MC_NUM = 128  # as published
WINDOW = 256  # texts whose sets are held at once


@dataclass(frozen=True)
class Request:
    """What is scored.

    Attributes:
        context: ids, given. Where it is empty the continuation's first token is given and not scored.
        continuation: ids.
        question: a number that all choices of one question share: they get common random numbers.
    """

    context: Sequence[int]
    continuation: Sequence[int]
    question: int = 0


def loglikelihood(
    model: Any,
    context: Sequence[int],
    continuation: Sequence[int],
    mc_num: int = MC_NUM,
    draws: str = "stratified",
    seed: int = 0,
) -> float:
    """Lower bound of log p(continuation | context), nats; 0.0 where no token is scored.

    Args:
        model: a ``Sampler``, a ``MaskedModel``, or a Dream-type Hugging Face model.
        context: ids, with BOS where the model was trained with it.
        continuation: ids.
        mc_num: draws, each a forward pass of a row unless its masks repeat.
        draws: plain, stratified, complementary, count or all (draws.py).
        seed: equal seeds give equal draws: score all choices of a question with one.

    Raises:
        ValueError: draws, mc_num or the length of the text cannot be.
    """
    return loglikelihoods(model, [Request(context, continuation)], mc_num, draws, seed)[0]


def loglikelihoods(
    model: Any,
    requests: Sequence[Request],
    mc_num: int = MC_NUM,
    draws: str = "stratified",
    seed: int = 0,
    *,
    batch_size: int = BATCH_SIZE,
    max_length: int | None = None,
    append_eos: bool = True,
    on_done: Callable[[int], None] | None = None,
) -> list[float]:
    """``loglikelihood`` of many: many draws of many requests in one forward pass.

    Args:
        model: as there.
        requests: in any order of lengths.
        mc_num: as there.
        draws: as there.
        seed: as there.
        batch_size: rows of a forward pass.
        max_length: tokens of a row; a longer text loses the oldest tokens of its context. None, or more
            than the model's own limit: that limit.
        append_eos: a visible EOS behind the continuation.
        on_done: told the number of requests done, for progress.

    Raises:
        ValueError: see ``loglikelihood``.
    """
    check_draws(draws, mc_num)
    masked = MaskedModel.of(model)
    texts = [text_of(masked, one, max_length, append_eos) for one in requests]
    found = np.zeros(len(requests))
    # Sorted, so that a window holds texts of like length and its batches are full.
    order = sorted(range(len(texts)), key=lambda n: (-len(texts[n].ids), n))
    for first in range(0, len(order), WINDOW):
        window = order[first : first + WINDOW]
        scored = [n for n in window if texts[n].length > 0]
        plans = [
            plan_masks(draws, texts[n].length, mc_num, seed, requests[n].question) for n in scored
        ]
        found[scored] = -_weighted_sums(masked, [texts[n] for n in scored], plans, batch_size)
        if on_done is not None:
            on_done(len(window))
    return [float(value) + 0.0 for value in found]  # + 0.0: no -0.0


def _weighted_sums(
    model: MaskedModel, texts: Sequence[Text], plans: Sequence[MaskPlan], batch_size: int
) -> Floats:
    """Of each text the sum of weight times cross-entropy, float64."""
    sums = np.zeros(len(texts))
    if not texts:
        return sums
    weights = np.concatenate([plan.weights_M for plan in plans])
    first = np.cumsum([0, *(len(plan.weights_M) for plan in plans)])
    for part in masked_scores(model, texts, [plan.masks_ML for plan in plans], batch_size):
        weight_N = weights[first[part.text_N] + part.row_N]
        np.add.at(sums, part.text_N, weight_N * part.cross_entropy_N)
    return sums


def text_of(
    model: MaskedModel, request: Request, max_length: int | None = None, append_eos: bool = True
) -> Text:
    """The row of a request, shortened from the left where it is too long.

    Raises:
        ValueError: the continuation alone is too long.
    """
    end = [model.eos_token_id] if append_eos else []
    ids = np.array([*request.context, *request.continuation, *end], dtype=np.int64)
    limits = [known for known in (model.max_length, max_length) if known is not None]
    limit = min(limits, default=None)
    cut = 0 if limit is None else max(0, len(ids) - limit)
    if cut > max(0, len(request.context) - 1):
        raise ValueError(
            f"a continuation of {len(request.continuation)} tokens does not fit into {limit} with a token "
            "before it and the end: shorten it, or raise max_length."
        )
    start = max(1, len(request.context) - cut)
    length = max(0, len(ids) - cut - start - len(end))
    return Text(ids[cut:], start, length)
