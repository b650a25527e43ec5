"""Packed rows: every real token once, in its segment, cut as megatron-core cuts THD for CP."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megatron_dream.data.packing import Packing, pack_rows
from megatron_dream.diffusion.rows import DEAD, PREDICTED, SEGMENT_START
from megatron_dream.model.masks import zigzag_positions


@st.composite
def micro_batches(draw: st.DrawFn) -> dict[str, Tensor]:
    """Rows of segments, some with dead padding behind; tokens number the real ones from 1."""
    width, rows = draw(st.integers(1, 20)), draw(st.integers(1, 4))
    flags = torch.zeros(rows, width, dtype=torch.uint8)
    for row in flags:
        dead = draw(st.integers(0, width))
        for place in range(1, width):
            row[place] = SEGMENT_START * draw(st.booleans()) + PREDICTED * draw(st.booleans())
        row[0] |= SEGMENT_START
        if dead:
            row[width - dead :] = DEAD
            row[width - dead] |= SEGMENT_START
    tokens = torch.arange(1, rows * width + 1, dtype=torch.int32).view(rows, width)
    is_dead = (flags & DEAD).bool()
    return {
        "tokens": tokens.masked_fill(is_dead, 0),
        "labels": (tokens + 1).masked_fill(is_dead, 0),
        "loss_weight": (tokens / 8).masked_fill(is_dead, 0.0),
        "flags": flags,
    }


def segments_of(parts: dict[str, Tensor]) -> list[list[int]]:
    """Tokens of each real segment, in order."""
    found: list[list[int]] = []
    for tokens, flags in zip(parts["tokens"].tolist(), parts["flags"].tolist(), strict=True):
        for token, flag in zip(tokens, flags, strict=True):
            if flag & DEAD:
                continue
            if flag & SEGMENT_START:
                found.append([])
            found[-1].append(token)
    return found


@settings(max_examples=150, deadline=None)
@given(parts=micro_batches(), cp=st.sampled_from([1, 2, 4]), times=st.integers(1, 5))
def test_segments_are_cut_zigzag_and_nothing_is_lost(
    parts: dict[str, Tensor], cp: int, times: int
) -> None:
    unit = times * (2 * cp if cp > 1 else 1)
    ranks = [
        pack_rows(parts, Packing(unit), pad_id=-7, cp_rank=rank, cp_size=cp) for rank in range(cp)
    ]
    segments = segments_of(parts)
    padded = ranks[0]["cu_seqlens_padded"]
    total = int(padded[-1])
    assert total % unit == 0 and ranks[0]["flags_full"].shape == (1, total)
    assert all(one["tokens"].shape == (1, total // cp) for one in ranks)
    assert int(ranks[0]["longest"]) == int(padded.diff().max())
    lengths = ranks[0]["cu_seqlens"].diff().tolist()
    assert lengths[: len(segments)] == [len(one) for one in segments]
    assert len(lengths) - len(segments) in (0, 1)
    starts = (padded // cp).tolist()
    for number, segment in enumerate(segments):
        size = int(padded[number + 1] - padded[number])
        assert size % (2 * cp if cp > 1 else 1) == 0 and size - len(segment) < 2 * cp
        whole = segment + [-7] * (size - len(segment))
        for rank, one in enumerate(ranks):
            part = slice(starts[number], starts[number + 1])
            places = zigzag_positions(size, rank, cp).tolist()
            assert one["tokens"][0, part].tolist() == [whole[p] for p in places]
            assert one["positions"][part].tolist() == places
    if len(lengths) > len(segments):  # filling at the end sees itself alone
        assert bool((ranks[0]["flags_full"][0, padded[-2] :] & DEAD).all())


@settings(max_examples=100, deadline=None)
@given(parts=micro_batches(), cp=st.sampled_from([1, 2]))
def test_labels_weights_and_rows_stay_with_their_token(parts: dict[str, Tensor], cp: int) -> None:
    width = parts["tokens"].shape[1]
    expected = {
        int(token): (int(parts["labels"].view(-1)[i]), int(parts["flags"].view(-1)[i]), i // width)
        for i, token in enumerate(parts["tokens"].view(-1))
        if token
    }
    found = {}
    for rank in range(cp):
        one = pack_rows(parts, Packing(2 * cp), pad_id=0, cp_rank=rank, cp_size=cp)
        for i, token in enumerate(one["tokens"][0].tolist()):
            flag = int(one["flags"][0, i])
            if token == 0:
                assert flag & DEAD and not flag & PREDICTED and one["loss_weight"][0, i] == 0
                continue
            assert one["loss_weight"][0, i] == token / 8
            found[token] = (int(one["labels"][0, i]), flag, int(one["packed_rows"][i]))
    assert found == expected


@settings(max_examples=60, deadline=None)
@given(parts=micro_batches())
def test_one_width_stays_one_width(parts: dict[str, Tensor]) -> None:
    one = pack_rows(parts, Packing(1, is_fixed=True), pad_id=0)
    assert torch.equal(one["tokens"].view(-1), parts["tokens"].view(-1))
    assert torch.equal(one["flags_full"].view(-1), parts["flags"].view(-1))
    assert int(one["cu_seqlens"][-1]) == parts["tokens"].numel()
    assert torch.equal(one["cu_seqlens"], one["cu_seqlens_padded"])


@settings(max_examples=100, deadline=None)
@given(parts=micro_batches(), cp=st.sampled_from([2, 4]))
def test_behind_a_padded_segment_there_is_another(parts: dict[str, Tensor], cp: int) -> None:
    """Transformer Engine compares starts of segments alone to see whether there is padding."""
    one = pack_rows(parts, Packing(2 * cp), pad_id=0, cp_size=cp)
    lengths, padded = one["cu_seqlens"].diff(), one["cu_seqlens_padded"].diff()
    assert lengths[-1] == padded[-1]


def test_middle_stages_have_flags_alone() -> None:
    flags = torch.tensor([[1, 0, 1, 0]], dtype=torch.uint8)
    one = pack_rows({"flags": flags}, Packing(4), pad_id=0, cp_rank=1, cp_size=2)
    assert "tokens" not in one and one["flags"].shape == (1, 6)
    assert one["cu_seqlens"].tolist() == [0, 2, 4, 8]


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_without_a_real_token_are_one_dead_segment(rows: int) -> None:
    flags = torch.full((rows, 4), DEAD, dtype=torch.uint8)
    flags[:, 0] |= SEGMENT_START
    one = pack_rows({"flags": flags}, Packing(8), pad_id=0, cp_size=2)
    assert one["cu_seqlens"].tolist() == [0, 8]
