"""Attention masks against their definition, position by position."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.model.masks import UNATTENDED, attention_mask, zigzag_positions


@st.composite
def flag_rows(draw: st.DrawFn) -> torch.Tensor:
    length = draw(st.sampled_from([4, 8, 12]))
    rows = draw(st.integers(1, 3))
    starts = [[True] + [draw(st.booleans()) for _ in range(length - 1)] for _ in range(rows)]
    flags = torch.tensor(starts).to(torch.uint8)
    if draw(st.booleans()):
        unseen = [[draw(st.booleans()) for _ in range(length)] for _ in range(rows)]
        flags |= torch.tensor(unseen).to(torch.uint8) * UNATTENDED
    return flags


@settings(max_examples=80, deadline=None)
@given(
    flags=flag_rows(),
    context=st.one_of(st.none(), st.integers(0, 12)),
    cp=st.sampled_from([1, 2]),
    rank=st.integers(0, 1),
)
def test_mask_is_segments_and_context(
    flags: torch.Tensor, context: int | None, cp: int, rank: int
) -> None:
    rank = min(rank, cp - 1)
    length = flags.shape[1]
    mask = attention_mask(flags, right_context=context, cp_rank=rank, cp_size=cp)
    segments = (flags & 1).cumsum(dim=1).tolist()
    unseen = (flags & UNATTENDED).bool().tolist()
    queries = zigzag_positions(length, rank, cp).tolist()
    keys = [p for r in range(cp) for p in zigzag_positions(length, r, cp).tolist()]
    assert sorted(keys) == list(range(length))
    for row, segment in enumerate(segments):
        for i, query in enumerate(queries):
            for j, key in enumerate(keys):
                allowed = segment[query] == segment[key]
                allowed = allowed and (key == query or not unseen[row][key])
                if context is not None:
                    allowed = allowed and key <= query + context
                if mask is None:  # the attention's own type: everything, or causal
                    causal = context == 0 and key > query
                    assert allowed != causal
                else:
                    assert bool(mask[row, 0, i, j]) == allowed


def test_rows_of_odd_length_have_positions_too() -> None:
    assert zigzag_positions(7, 0, 1).tolist() == list(range(7))
    flags = torch.tensor([[1, 0, 0], [1, 0, 5]], dtype=torch.uint8)
    mask = attention_mask(flags, right_context=None)
    assert mask is not None and mask[1, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
