"""Cross-entropies at masked tokens, for many masked copies of many texts, rows of equal length together.

The head runs at masked tokens only, and where the model can be asked for states (sampling/cache.py) so
does the last layer: a short answer behind a long context costs no logits of the context. Rows of a batch
that are equal once they are masked, as choices of one token are, run once. The probability
is the softmax over all that the model has logits for, as in training's loss and in published code; the
sampler in addition forbids the mask token.

Shapes: R rows of a batch, U distinct ones, S their length, N masked tokens of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...device import current_device
from ...sampling.cache import StatesModel
from ...sampling.decode import ROWS_AT_ONCE
from ..sampler import Sampler
from .draws import Bools, Floats

BATCH_SIZE = 32  # rows of a forward pass, as published
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class MaskedModel:
    """A diffusion model and the ids that scoring needs.

    Attributes:
        model: unshifted logits when called (input_ids, attention_mask, position_ids), or ``StatesModel``.
        mask_token_id: M.
        eos_token_id: stands behind every text, visible.
        max_length: tokens of a row; None: no limit known.
    """

    model: Any
    mask_token_id: int
    eos_token_id: int
    max_length: int | None = None

    @classmethod
    def of(cls, model: Any) -> MaskedModel:
        """From itself, a ``Sampler``, or a Dream-type Hugging Face model with the ids in its config.

        Raises:
            ValueError: the model names no mask or end token.
        """
        if isinstance(model, cls):
            return model
        if isinstance(model, Sampler):
            tokenizer = model.tokenizer
            return cls(model.model, tokenizer.mask_id, tokenizer.eos_id, model.max_position)
        config = getattr(model, "config", None)
        mask, eos = (getattr(config, name, None) for name in ("mask_token_id", "eos_token_id"))
        eos = eos[0] if isinstance(eos, list) and eos else eos
        if type(mask) is not int or type(eos) is not int:
            raise ValueError(
                f"{type(model).__name__} does not say its mask_token_id and eos_token_id: wrap it as "
                "MaskedModel(model, mask_token_id, eos_token_id)."
            )
        return cls(model, mask, eos, getattr(config, "max_position_embeddings", None))


@dataclass(frozen=True)
class Text:
    """A row to be scored.

    Attributes:
        ids: int64 [S]: context, continuation, EOS where it is appended.
        start: of the scored tokens, 1 or more.
        length: L of them.
    """

    ids: Integers
    start: int
    length: int


@dataclass(frozen=True)
class Scores:
    """Cross-entropies of one batch, an entry a masked token.

    Attributes:
        text_N: int64, which text.
        row_N: int64, which of its masks.
        offset_N: int64, which of its scored tokens.
        cross_entropy_N: float64, nats.
        is_best_N: bool, whether the token is the most probable one.
    """

    text_N: Integers
    row_N: Integers
    offset_N: Integers
    cross_entropy_N: Floats
    is_best_N: Bools


@torch.no_grad()
def masked_scores(
    model: MaskedModel,
    texts: Sequence[Text],
    masks: Sequence[Bools],
    batch_size: int = BATCH_SIZE,
    wanted: Sequence[Bools] | None = None,
) -> Iterator[Scores]:
    """Run every masked copy of every text; batches come in no order that matters.

    Args:
        model: on the current device.
        texts: any lengths.
        masks: of each text bool [M, L], no row of them empty.
        batch_size: rows of a forward pass; changes speed and rounding only.
        wanted: of each text bool [M, L], the masked tokens that are scored; None: all.

    Raises:
        ValueError: ``batch_size`` below 1, or logits that are not numbers.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give a whole number of at least 1.")
    by_length: dict[int, list[int]] = {}
    for number, text in enumerate(texts):
        by_length.setdefault(len(text.ids), []).append(number)
    for length in sorted(by_length, reverse=True):  # what needs the most memory comes first
        text_Q = np.concatenate([np.full(len(masks[n]), n) for n in by_length[length]])
        row_Q = np.concatenate([np.arange(len(masks[n])) for n in by_length[length]])
        for first in range(0, len(text_Q), batch_size):
            part = slice(first, first + batch_size)
            yield _batch(model, texts, masks, wanted or masks, text_Q[part], row_Q[part])


def _batch(
    model: MaskedModel,
    texts: Sequence[Text],
    masks: Sequence[Bools],
    wanted: Sequence[Bools],
    text_R: Integers,
    row_R: Integers,
) -> Scores:
    ids_RS = np.stack([texts[n].ids for n in text_R])
    truth_RS = ids_RS.copy()
    pairs = list(zip(text_R, row_R, strict=True))
    for place, (number, row) in enumerate(pairs):
        hidden = masks[number][row].nonzero()[0]
        ids_RS[place, texts[number].start + hidden] = model.mask_token_id
    offsets = [wanted[number][row].nonzero()[0] for number, row in pairs]
    rows_N = np.repeat(np.arange(len(pairs)), [len(part) for part in offsets])
    offsets_N = np.concatenate(offsets)
    columns_N = offsets_N + np.array([text.start for text in texts])[text_R[rows_N]]
    # Choices of one question are often the same row once they are masked: it runs once.
    distinct_US, place_R = np.unique(ids_RS, axis=0, return_inverse=True)
    where = current_device()
    ids, place_N, column_N, truth_N = (
        torch.from_numpy(values).to(where)
        for values in (
            distinct_US,
            place_R.reshape(-1)[rows_N],
            columns_N,
            truth_RS[rows_N, columns_N],
        )
    )
    entropy_N, is_best_N = _cross_entropy(model.model, ids, place_N, column_N, truth_N)
    found = Scores(
        text_R[rows_N],
        row_R[rows_N],
        offsets_N,
        entropy_N.double().cpu().numpy(),
        is_best_N.cpu().numpy(),
    )
    if np.isnan(found.cross_entropy_N).any():
        raise ValueError("the model's logits hold NaN: check its weights and precision.")
    return found


def _cross_entropy(
    model: Any,
    ids_US: torch.Tensor,
    row_N: torch.Tensor,
    column_N: torch.Tensor,
    truth_N: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each masked token, fp32, and whether the truth is the most probable token."""
    if isinstance(model, StatesModel):
        low, high = int(column_N.min()) - 1, int(column_N.max())
        states = model.sampler_states(ids_US, None, None, None, 0, low, high)
        parts = states[row_N, column_N - 1 - low].split(ROWS_AT_ONCE)
        logits = map(model.sampler_logits, parts)
    else:
        call = model if callable(model) else model.forward
        output = call(input_ids=ids_US, attention_mask=None, position_ids=None)
        whole = getattr(output, "logits", output)
        logits = iter(whole[row_N, column_N - 1].split(ROWS_AT_ONCE))
    entropies, are_best = [], []
    for logits_NV, truth in zip(logits, truth_N.split(ROWS_AT_ONCE), strict=True):
        logits_NV = logits_NV.float()
        entropies.append(torch.nn.functional.cross_entropy(logits_NV, truth, reduction="none"))
        are_best.append(logits_NV.argmax(-1) == truth)
    return torch.cat(entropies), torch.cat(are_best)
