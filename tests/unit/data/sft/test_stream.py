"""Rows of the sft stage against SPEC 5 written out as loops, and what they must not depend on."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.schema import DiffusionConfig
from megatron_dream.data.order import SampleOrder
from megatron_dream.data.sft.samples import RUNS_PER_WINDOW, LengthOrder
from megatron_dream.data.sft.stream import SftStream
from megatron_dream.data.sft.truncation import drawn_sample
from megatron_dream.data.stream import Row
from megatron_dream.diffusion.noise import NoiseStream
from tests.unit.data.sft.random_samples import LIMIT, MASK, PAD, Samples, stream_of

PREDICTED, UNATTENDED = 2, 8


def same(one: Row, two: Row) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(two, field.name))
        for field in dataclasses.fields(Row)
    )


# --- SPEC 5, written as one reads it -------------------------------------------------------------


def plain_row(stream: SftStream, ordinal: int) -> tuple[list[int], int, int]:
    """(clean tokens, where the answer begins, where the run of PAD at its end begins)."""
    sft, per_sample = stream.sft, 2 if stream.diffusion.complementary else 1
    n = ordinal // per_sample
    group_size = stream.group_size
    members = range(n // group_size * group_size, n // group_size * group_size + group_size)
    drawn = drawn_sample(stream.noise.key, n // group_size, group_size)
    assert drawn in members
    prompt, response, _ = (
        part if isinstance(part, int) else part.tolist() for part in stream.samples[n]
    )
    if sft.truncation == "random_with_input_pad":
        wanted = len(stream.samples[drawn][1])
        answer = [*response, stream.end_id, *[PAD] * LIMIT][:wanted]
        row = [*prompt, *answer][:LIMIT]
    elif sft.truncation == "random":
        wanted = sum(len(part) for part in stream.samples[drawn][:2]) + 1
        row = [*prompt, *response, stream.end_id][:wanted]
    else:
        row = [*prompt, *response, stream.end_id]
        longest = max(sum(len(part) for part in stream.samples[m][:2]) + 1 for m in members)
        row += [PAD] * ({"none": 0, "longest": longest, "max": LIMIT}[sft.pad] - len(row))
    begin = min(len(prompt), len(row))
    run = len(row)
    while run > begin and row[run - 1] == PAD:
        run -= 1
    return row, begin, run


def plain_definition(stream: SftStream, ordinal: int) -> dict[str, Any]:
    """Masks, labels, weights and flags by loops over positions."""
    sft, diffusion = stream.sft, stream.diffusion
    row, begin, run = plain_row(stream, ordinal)
    per_sample = 2 if diffusion.complementary else 1
    n, is_second = ordinal // per_sample, per_sample == 2 and ordinal % 2 == 1
    noise = NoiseStream(stream.data.seed, "sft", "train")
    t, u = noise.time(n, t_min=diffusion.t_min), noise.positions(n, len(row)).tolist()
    masked = []
    for i in range(len(row)):
        draw = u[run] if sft.eos_as_one and i >= run else u[i]
        hit = draw >= t if is_second else draw < t
        masked.append(i >= begin and i > 0 and hit)
    t = 1 - t if is_second else t
    # The end of an answer is seen even where PAD behind it is not.
    end = run + 1 if stream.end_id == PAD else run
    unattended = [not sft.pad_attended and i >= end for i in range(len(row))]
    p, weights = diffusion.cart_p, []
    for i in range(len(row)):
        context = [m for m in range(len(row)) if m != i and not masked[m] and not unattended[m]]
        cart = sum(0.5 * p * (1 - p) ** (abs(i - m) - 1) for m in context)
        weight = {"cart": cart, "linear": 1 - t, "uniform": 1.0}[diffusion.weight]
        constant = {"cart": 1 / 3, "linear": 1 / 3, "uniform": 1.0}[diffusion.weight]
        weights.append(weight / constant if masked[i] else 0.0)
    paying = [i for i in range(run, len(row)) if masked[i]]
    for i in paying:
        if sft.eos_loss == "first":
            weights[i] *= i == run
        if sft.eos_loss == "mean":
            weights[i] /= len(paying)
    length = len(row)
    return {
        "tokens": [MASK if masked[i] else row[i] for i in range(length)],
        "labels": [*row[1:], 0],
        "weights": [*weights[1:], 0.0],
        "predicted": [*masked[1:], False],
        "unattended": unattended,
        "maskable": sum(1 for i in range(length) if i >= begin and i > 0),
    }


CHOICES = st.fixed_dictionaries(
    {
        "response_end": st.sampled_from(["endoftext", "im_end"]),
        "eos_as_one": st.booleans(),
        "eos_loss": st.sampled_from(["all", "first", "mean"]),
        "pad_attended": st.booleans(),
    }
)
LENGTHS = st.one_of(
    st.fixed_dictionaries({"truncation": st.sampled_from(["random_with_input_pad", "random"])}),
    st.fixed_dictionaries(
        {"truncation": st.just("off"), "pad": st.sampled_from(["none", "longest", "max"])}
    ),
)


def check_rows(
    seed: int, group_size: int, first: int, choices: dict[str, Any], weight: str, pairs: bool
) -> None:
    diffusion = DiffusionConfig(weight=weight, complementary=pairs)  # type: ignore[arg-type]
    stream = stream_of(seed, group_size, diffusion, **choices)
    for ordinal in range(first, first + 5):
        row, expected = stream[ordinal], plain_definition(stream, ordinal)
        assert row.tokens.tolist() == expected["tokens"]
        assert row.labels.tolist() == expected["labels"]
        np.testing.assert_allclose(row.loss_weight, expected["weights"], atol=1e-6)
        assert ((row.flags & PREDICTED) > 0).tolist() == expected["predicted"]
        assert ((row.flags & UNATTENDED) > 0).tolist() == expected["unattended"]
        assert row.num_maskable == expected["maskable"]
        assert stream.row_length(ordinal) == row.tokens.size
        np.testing.assert_array_equal(stream.flags(ordinal), row.flags & ~np.uint8(PREDICTED))


CASES = {
    "seed": st.integers(0, 1 << 30),
    "half_group": st.integers(1, 12),
    "first": st.integers(0, 5000),
    "choices": CHOICES,
    "lengths": LENGTHS,
    "weight": st.sampled_from(["cart", "linear", "uniform"]),
    "pairs": st.booleans(),
}


@settings(max_examples=120, deadline=None)
@given(**CASES)
def test_rows_are_those_of_the_definition(
    seed: int, half_group: int, first: int, choices: Any, lengths: Any, weight: str, pairs: bool
) -> None:
    check_rows(seed, 2 * half_group, first, choices | lengths, weight, pairs)


@pytest.mark.acceptance
@settings(max_examples=2000, deadline=None)
@given(**CASES)
def test_ten_thousand_rows_are_those_of_the_definition(
    seed: int, half_group: int, first: int, choices: Any, lengths: Any, weight: str, pairs: bool
) -> None:
    check_rows(seed, 2 * half_group, first, choices | lengths, weight, pairs)


def test_every_sample_of_a_group_is_drawn_about_as_often() -> None:
    """Longer answers are not drawn more often: each of a group's samples has the same chance."""
    key = NoiseStream(3, "sft", "train").key
    places = [drawn_sample(key, group, 8) - 8 * group for group in range(4000)]
    counts = np.bincount(places, minlength=8)
    assert counts.min() > 400 and counts.max() < 600


def test_groups_are_of_ordinals_and_not_of_micro_batches() -> None:
    """Answers of a group have one length where prompts leave room; the next group has another."""
    stream = stream_of(group_size=6)
    lengths = [stream.row_length(n) - stream.samples.lengths(n)[0] for n in range(600)]
    groups = [set(lengths[i : i + 6]) for i in range(0, 600, 6)]
    assert all(len(group) == 1 for group in groups)  # 14 + 24 < 40: there is always room
    assert len({min(group) for group in groups}) > 10


def test_a_long_prompt_leaves_the_answer_what_room_there_is() -> None:
    class Long(Samples):
        def lengths(self, n: int) -> tuple[int, int]:
            return (30, 5) if n % 2 else (3, 30)

    stream = stream_of(samples=Long(0), group_size=2)
    rows = [stream.row_length(n) for n in range(60)]
    assert max(rows) == LIMIT and rows.count(LIMIT) > 5


def test_pickled_streams_give_the_same_rows() -> None:
    stream = stream_of(group_size=5)
    copy = pickle.loads(pickle.dumps(stream))
    assert all(same(stream[n], copy[n]) for n in range(20))


class Blend:
    size = 64 * 64

    def __getitem__(self, n: int) -> tuple[int, int]:
        return n % 2, n // 2


def test_runs_of_like_length_hold_every_sample_of_their_window() -> None:
    order = SampleOrder([512, 700], Blend(), 7)  # type: ignore[arg-type]
    lengths = np.random.default_rng(0).integers(1, 1000, (2, 700))
    by_length = LengthOrder(order, lambda member: int(lengths[member]), 8, (7, 1))
    window = 8 * RUNS_PER_WINDOW
    for start in (0, window):
        plain = [order[n] for n in range(start, start + window)]
        ordered = [by_length[n] for n in range(start, start + window)]
        assert sorted(plain) == sorted(ordered) and plain != ordered
        spreads = [np.ptp([lengths[m] for m in ordered[i : i + 8]]) for i in range(0, window, 8)]
        assert np.median(spreads) < 40
        firsts = [lengths[ordered[i]] for i in range(0, window, 8)]
        assert firsts != sorted(firsts)  # runs are shuffled: no batch holds the longest alone


def test_every_epoch_holds_every_sample_in_an_order_of_its_own() -> None:
    class Single(Blend):
        def __getitem__(self, n: int) -> tuple[int, int]:
            return 0, n

    order = SampleOrder([100], Single(), 7)  # type: ignore[arg-type]
    epochs = [[order[e * 100 + i][1] for i in range(100)] for e in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != list(range(100)) and epochs[0] != epochs[1] != epochs[2]
