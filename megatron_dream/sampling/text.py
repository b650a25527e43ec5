"""Cutting what was generated: the text ends before the first end token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch


def cut_at_eos(ids: Iterable[int], eos_token_ids: Sequence[int]) -> list[int]:
    """``ids`` up to, and without, the first end token.

    Args:
        ids: a list or a 1-D tensor.
        eos_token_ids: empty: nothing is cut.
    """
    tokens = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    ends = set(eos_token_ids)
    for index, token in enumerate(tokens):
        if token in ends:
            return tokens[:index]
    return tokens


def responses(
    sequences_BS: torch.Tensor, prompt_length: int, eos_token_ids: Sequence[int]
) -> list[list[int]]:
    """The ids after the prompt of every row, each cut at its first end token."""
    return [cut_at_eos(row[prompt_length:], eos_token_ids) for row in sequences_BS]
