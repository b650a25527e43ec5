"""Filters against sorting everything, on ties, wide nuclei and large vocabularies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.sampling.filters import top_k_filter, top_p_filter
from tests.unit.sampling.plain_definition import plain_filter


@given(
    rows=st.lists(
        st.lists(
            st.sampled_from([-3.0, 0.0, 0.5, 1.0, 4.0, float("-inf")]), min_size=8, max_size=8
        ),
        min_size=1,
        max_size=5,
    ),
    top_p=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.integers(0, 10),
)
@settings(max_examples=100, deadline=None)
def test_equal_to_sorting_everything(rows, top_p, top_k):
    logits = torch.tensor([[*row, 0.25] for row in rows])
    expected = [plain_filter(row, top_p, top_k) for row in logits.tolist()]
    assert top_k_filter(top_p_filter(logits, top_p), top_k).tolist() == expected


@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("top_p", [0.5, 0.95, 0.9999])
def test_narrow_and_wide_nuclei_of_a_large_vocabulary(scale, top_p):
    """Scale 0.01 needs nearly all of the vocabulary, 6 a handful; both share a call."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((6, 3000), generator=generator) * scale
    logits[::2] *= 3
    logits[:, 100:200] = logits[:, :1]
    kept = top_p_filter(logits, top_p) > float("-inf")
    probs = torch.softmax(logits, -1).double()
    for row in range(6):
        order = sorted(range(3000), key=lambda v, row=row: (-float(logits[row, v]), v))
        total = 0.0
        expected = set()
        for v in order:
            if total > top_p:
                break
            expected.add(v)
            total += float(probs[row, v])
        assert set(kept[row].nonzero().squeeze(-1).tolist()) == expected


def test_top_k_keeps_all_that_equal_the_last():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0]])
    assert (top_k_filter(logits, 2) > float("-inf")).tolist() == [[False, True, True, True]]


def test_top_p_keeps_the_token_that_crosses_and_stops_there():
    """Of 1/2 1/4 1/8 1/8: a sum equal to top_p does not exceed it, so one more stays."""
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125]]))
    equal = torch.zeros((1, 4))  # 1/4 each, exactly
    assert (top_p_filter(equal, 0.5) > float("-inf")).tolist() == [[True, True, True, False]]
    assert (top_p_filter(logits, 0.6) > float("-inf")).tolist() == [[True, True, False, False]]
    assert (top_p_filter(logits, 0.1) > float("-inf")).tolist() == [[True, False, False, False]]
