"""The choice of a middle: nothing is lost, lines stay whole, and every choice is as likely as another."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_dream.data.infilling.splitting import line_places, num_lines, split_text
from megatron_dream.diffusion.noise import SAMPLE, NoiseStream, philox_words, unit_floats

texts = st.text(st.sampled_from("ab \n\r\x0cé\U0001f40d\u0301"), min_size=1, max_size=40)
unit = st.floats(0, 1, exclude_max=True)
triples = st.tuples(unit, unit, unit)
LAST = 1 - 2.0**-53  # the largest number that a word becomes


@settings(max_examples=1000, deadline=None)
@given(texts, triples, st.sampled_from([0.0, 0.3, 1.0]))
@example("a", (0.0, LAST, LAST), 1.0)
@example("a", (LAST, LAST, LAST), 0.0)
@example("abc", (0.0, 0.0, LAST), 1.0)
@example("\n", (LAST, 0.0, 0.0), 0.0)
def test_the_three_parts_are_the_text_and_the_middle_is_never_empty(
    text: str, draws: tuple[float, float, float], share: float
) -> None:
    split = split_text(text, draws, share)
    assert split.prefix + split.middle + split.suffix == text
    assert split.middle
    if draws[0] >= share:  # whole lines
        assert not split.prefix or split.prefix.endswith("\n")
        assert not split.suffix or split.middle.endswith("\n")


@settings(max_examples=500, deadline=None)
@given(texts)
def test_lines_are_those_that_line_feeds_end(text: str) -> None:
    places = line_places(text)
    lines = [text[a:b] for a, b in zip(places, places[1:], strict=False)]
    assert "".join(lines) == text and all(lines)
    assert all(line.count("\n") == line.endswith("\n") for line in lines)
    assert all(line.endswith("\n") for line in lines[:-1])
    assert num_lines(text) == sum(bool(line.strip()) for line in lines)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_every_middle_is_as_likely_as_every_other(share: float) -> None:
    """Pairs of different places, uniformly: of 5 lines 15 runs, of 5 characters 15 spans."""
    text = "abcde" if share else "a\nb\nc\nd\ne"
    places = range(6) if share else [0, 2, 4, 6, 8, 9]
    stream, size = NoiseStream(11, "sft"), 15_000
    found: Counter[tuple[int, int]] = Counter()
    for n in range(size):
        split = split_text(text, stream.splitting(n), share)
        found[len(split.prefix), len(split.prefix) + len(split.middle)] += 1
    assert set(found) == set(combinations(places, 2))
    expected = size / 15
    statistic = sum((count - expected) ** 2 / expected for count in found.values())
    assert statistic < 36.1  # chi-square of 14 degrees, one in a thousand


def test_an_empty_text_has_no_middle() -> None:
    with pytest.raises(ValueError, match="no middle"):
        split_text("", (0.0, 0.0, 0.0), 0.5)


def test_the_draws_are_words_5_to_7_and_their_bits_are_pinned() -> None:
    """Words 0 to 4 have other uses. The numbers were printed by noise.py, whose words a golden file holds."""
    stream = NoiseStream(1234, "sft")
    words = unit_floats(philox_words(stream.key, 9, SAMPLE, 8)).tolist()
    assert stream.splitting(9) == tuple(words[5:])
    assert words[5:] == [0.942276156978068, 0.9283073470313751, 0.2986297644077315]
