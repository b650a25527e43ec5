"""Repetition: the ratios against plain definitions, what stays and what goes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.data.filters.repetition import RepetitionOptions, gram_shares
from tests.unit.data.filters.documents import decide

PROSE = (
    "The lighthouse keeper wrote in his log every evening before dusk. Ships passed at a distance, "
    "and few of them answered. When winter came he mended nets, read old letters and counted the "
    "days until the supply boat would bring flour, oil and news from people whom he hardly knew."
)
CODE = '''
def merge(left, right):
    """Merge two sorted lists."""
    result = []
    while left and right:
        source = left if left[0] <= right[0] else right
        result.append(source.pop(0))
    return result + left + right


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)
'''


@pytest.mark.parametrize("text", [PROSE, CODE, "", "word", "a b", "\n\n\n", "one line\n" + PROSE])
def test_ordinary_text_stays(text):
    assert decide("repetition", text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "\n".join(["click here now"] * 3 + [f"line {n} is its own" for n in range(4)]),
            "line_characters",
        ),
        ("\n".join(["x"] * 9 + [f"line number {n} of this text here" for n in range(9)]), "lines"),
        ("\n\n".join(["a b c d\ne f g"] * 2 + [f"p{n}" for n in range(2)]), "lines"),
        ("spam " * 100, "top_2_gram"),
        (" ".join([PROSE, "Then spring came.", PROSE]), "repeated_5_gram"),
    ],
)
def test_repeated_text_goes(text, reason):
    assert decide("repetition", text).startswith(reason)


def test_paragraphs_are_apart_from_lines():
    text = "\n\n".join(["first\nsecond"] * 3 + ["third"])
    options = {**dict.fromkeys(vars(RepetitionOptions())), "paragraphs": 0.3}
    assert decide({"repetition": options}, text) == "paragraphs over 0.3"
    assert decide({"repetition": {**options, "paragraphs": 0.5}}, text) is None


def test_every_threshold_can_be_switched_off():
    off = dict.fromkeys(vars(RepetitionOptions()))
    assert decide({"repetition": off}, "spam\n" * 1000) is None
    for name in off:
        if name.startswith(("top", "repeated")):
            reason = decide({"repetition": {**off, name: 0.05}}, "buy these very cheap pills " * 9)
            assert reason == f"{name} over 0.05"


def plain_shares(text):
    """The definitions, word for word."""
    words, found = text.split(), {}
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = {gram: grams.count(gram) for gram in grams}
        top = max(counts.values(), default=0)
        if top < 2:
            break
        if n <= 4:
            size = max(len(" ".join(gram)) for gram, count in counts.items() if count == top)
            found[f"top_{n}_gram"] = size * top / len(text)
        else:
            repeats = [i for i, gram in enumerate(grams) if gram in grams[:i]]
            covered = {i + offset for i in repeats for offset in range(n)}
            found[f"repeated_{n}_gram"] = sum(len(words[i]) for i in covered) / len(text)
    return found


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "cc", "ddd"]), max_size=40), st.sampled_from([" ", "\n  "])
)
def test_shares_are_the_definitions(words, between):
    text = between.join(words)
    assert dict(gram_shares(text)) == pytest.approx(plain_shares(text))


def test_shares_of_longer_text():
    chance = random.Random(5)
    words = [f"w{chance.randrange(300)}" for _ in range(600)]
    words[300:360] = words[100:160]
    text = " ".join(words)
    shares = dict(gram_shares(text))
    assert shares == pytest.approx(plain_shares(text))
    assert shares["repeated_10_gram"] == pytest.approx(
        sum(map(len, words[100:160])) / len(text), abs=0.02
    )


def test_a_hostile_text_takes_linear_time():
    for text in ("a " * 100_000, "\n" * 500_000, "x" * 1_000_000, " \n" * 200_000):
        decide({"repetition": {"lines": 1, "line_characters": 1}}, text)
