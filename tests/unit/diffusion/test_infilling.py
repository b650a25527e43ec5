"""The corruption of SPEC 6 against the scan as it is written there, and what its draws distribute as."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_dream.diffusion.infilling import MAX_APPENDED, InfillingDraws, corrupt_middle
from megatron_dream.diffusion.noise import NoiseStream

MASK, EOS, EXPAND = 100, 101, 102
IDS = {"mask_id": MASK, "eos_id": EOS, "expand_id": EXPAND}


def by_the_scan(
    middle: list[int], draws: InfillingDraws, q: float
) -> tuple[list[int], list[int], list[bool], list[float]]:
    """From left to right, a position at a time; deleted ones are taken out at the end."""
    masked = [u < draws.t for u in draws.u_M.tolist()]
    if draws.fades:
        q *= 1 - (sum(masked) / len(masked) if masked else 0)
    targets = middle + [EOS] * draws.num_appended
    masked += [True] * draws.num_appended
    labels, dropped = list(targets), set()
    for i in range(len(targets) - 1):
        if targets[i] == EOS:
            break
        if masked[i] and masked[i + 1] and draws.coins[i] < q:
            labels[i] = EXPAND
            dropped.add(i + 1)
    kept = [i for i in range(len(targets)) if i not in dropped]
    labels, masked = [labels[i] for i in kept], [masked[i] for i in kept]
    num_eos = sum(m and label == EOS for m, label in zip(masked, labels, strict=True))
    tokens = [MASK if m else label for m, label in zip(masked, labels, strict=True)]
    weights = [
        (0.0 if not m else (1 - draws.t) / (num_eos if label == EOS else 1))
        for m, label in zip(masked, labels, strict=True)
    ]
    return tokens, labels, masked, weights


unit = st.floats(0, 1, exclude_max=True)


@st.composite
def cases(
    draw: st.DrawFn, tokens: tuple[int, ...] = (1, 2, 3, 1, 2, 3, EOS)
) -> tuple[list[int], InfillingDraws]:
    middle = draw(st.lists(st.sampled_from(tokens), max_size=24))
    appended = draw(st.integers(0, 5))
    size = len(middle) + appended
    return middle, InfillingDraws(
        t=draw(st.floats(1e-3, 1)),
        u_M=np.array(draw(st.lists(unit, min_size=len(middle), max_size=len(middle)))),
        coins=np.array(draw(st.lists(unit, min_size=size, max_size=size))),
        num_appended=appended,
        fades=draw(st.booleans()),
    )


def check_against_the_scan(case: tuple[list[int], InfillingDraws], q: float) -> None:
    middle, draws = case
    found = corrupt_middle(np.array(middle, dtype=np.int64), draws, expand_probability=q, **IDS)
    tokens, labels, masked, weights = by_the_scan(middle, draws, q)
    assert found.tokens.tolist() == tokens
    assert found.targets.tolist() == labels
    assert found.is_masked.tolist() == masked
    assert found.weight.tolist() == pytest.approx(weights, abs=1e-12)


@settings(max_examples=400, deadline=None)
@given(cases(), st.sampled_from([0.5, 0.0, 1.0]))
@example(([], InfillingDraws(1.0, np.zeros(0), np.zeros(0), 0, False)), 0.5)
@example(([1], InfillingDraws(1.0, np.zeros(1), np.zeros(3), 2, False)), 1.0)
def test_equals_the_scan(case: tuple[list[int], InfillingDraws], q: float) -> None:
    check_against_the_scan(case, q)


@pytest.mark.acceptance
@settings(max_examples=2000, deadline=None)
@given(cases(), st.sampled_from([0.5, 0.0, 1.0]))
def test_equals_the_scan_in_two_thousand_cases(
    case: tuple[list[int], InfillingDraws], q: float
) -> None:
    check_against_the_scan(case, q)


@settings(max_examples=300, deadline=None)
@given(cases(tokens=(1, 2, 3)))
def test_nothing_of_the_text_is_lost(case: tuple[list[int], InfillingDraws]) -> None:
    """What is not under an expand stands in the targets, in order; each expand stands for two or more."""
    middle, draws = case
    found = corrupt_middle(np.array(middle, dtype=np.int64), draws, **IDS)
    whole = middle + [EOS] * draws.num_appended
    missing = len(whole) - found.targets.size
    num_expands = int((found.targets == EXPAND).sum())
    assert missing >= num_expands and (missing == 0) == (num_expands == 0)
    rest = iter(whole)
    for target in found.targets.tolist():
        if target == EXPAND:
            next(rest)
        else:
            assert target in rest  # a subsequence


def test_runs_have_the_published_shares() -> None:
    """At q 0.5 an expand stands for 2 in 65%, for 3 in 22%, for 4 in 8% (SPEC 6)."""
    stream, lengths = NoiseStream(3, "infill"), []
    for n in range(4000):
        draws = stream.infilling(n, 60, 0)
        draws = InfillingDraws(draws.t, draws.u_M, draws.coins, 0, fades=False)
        middle = np.arange(60)
        found = corrupt_middle(middle, draws, **IDS)
        places = np.flatnonzero(found.targets == EXPAND)
        kept = [int(token) for token in found.targets if token != EXPAND]
        # Between two kept ids all others are under the expands; count where one lies alone.
        for place in places:
            before = int(found.targets[place - 1]) if place else -1
            after = int(found.targets[place + 1]) if place + 1 < found.targets.size else 60
            if EXPAND not in (before, after):
                lengths.append(after - before - 1)
        assert kept == sorted(kept)
    shares = np.bincount(lengths, minlength=5)[2:5] / len(lengths)
    assert shares == pytest.approx([0.65, 0.22, 0.08], abs=0.04)


def test_draws_are_of_the_ordinal() -> None:
    stream = NoiseStream(1, "infill")
    one, again = stream.infilling(5, 10, 100), stream.infilling(5, 10, 100)
    assert one.num_appended == again.num_appended and one.coins.tolist() == again.coins.tolist()
    many = [stream.infilling(n, 4, 1000) for n in range(3000)]
    counts = np.bincount([draws.num_appended for draws in many], minlength=64)
    assert counts.size == MAX_APPENDED + 1 and counts.min() > 0
    assert abs(np.mean([draws.fades for draws in many]) - 0.5) < 0.05
    assert max(stream.infilling(n, 4, 3).num_appended for n in range(300)) == 3
    assert stream.infilling(0, 4, 0).num_appended == 0
    assert all(draws.coins.size == 4 + draws.num_appended for draws in many)


def test_the_masked_share_is_that_of_the_middle_alone() -> None:
    """Appended EOS are always masked and would lower q."""
    draws = random.Random(0)
    coins = np.array([draws.random() for _ in range(70)])
    u = np.concatenate([np.zeros(5), np.ones(5) * 0.99])  # half masked
    middle = np.arange(10)
    found = corrupt_middle(middle, InfillingDraws(0.5, u, coins, 60, True), **IDS)
    plain = corrupt_middle(
        middle, InfillingDraws(0.5, u, coins, 60, False), expand_probability=0.25, **IDS
    )
    assert found.targets.tolist() == plain.targets.tolist()
