"""Length bounds, and the DCLM rule with its keep rate."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.data.document import Document
from megatron_dream.data.filters import build_filters
from megatron_dream.data.filters.dclm import DclmOptions
from megatron_dream.data.filters.length import size_of
from tests.unit.data.filters.documents import decide

SCORE = "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob"
LONG = "x" * 256


@pytest.mark.parametrize(
    ("options", "stays", "goes"),
    [
        ({"min_characters": 3}, "abc", "ab"),
        ({"max_characters": 3}, "äbc", "abcd"),
        ({"min_bytes": 4}, "äbc", "abc"),
        ({"max_bytes": 3}, "äb", "ää"),
        ({"min_lines": 2}, "a\nb", "a\n"),
        ({"max_lines": 2}, "a\nb\n", "a\nb\nc"),
        ({"min_lines": 1}, "\n", ""),
        ({"min_bytes": 2, "max_lines": 1}, "ab", "a"),
        ({"min_bytes": 2, "max_lines": 1}, "ab\n", "ab\nc"),
    ],
)
def test_bounds_are_inclusive(options, stays, goes):
    assert decide({"length": options}, stays) is None
    (bound,) = [f"{value:,}" for value in options.values()][-1:]
    assert decide({"length": options}, goes).startswith(("under", "over"))
    assert len(options) > 1 or bound in decide({"length": options}, goes)


@given(st.text())
def test_sizes(text):
    assert size_of(text, "bytes") == len(text.encode())
    assert size_of(text, "lines") == len(
        [*text.split("\n")[:-1], *filter(None, [text.split("\n")[-1]])]
    )


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (0.51, None),
        (1.00001, None),
        (1, None),
        (0.09532, "score not over 0.09532"),
        (0.0, "score not over 0.09532"),
        (-3, "score not over 0.09532"),
        (None, "no score"),
        ("0.9", "the score is no number"),
        (True, "the score is no number"),
        ([0.9], "the score is no number"),
        (math.nan, "the score is no number"),
    ],
)
def test_dclm_by_score(score, reason):
    assert decide({"dclm": {}}, LONG, **{SCORE: score}) == reason


def test_dclm_length_missing_field_and_another_name():
    assert decide({"dclm": {}}, "x" * 255, **{SCORE: 0.9}) == "under 256 characters"
    assert decide({"dclm": {}}, LONG) == "no score"
    assert decide({"dclm": {"field": "quality"}}, LONG, quality=0.9) is None
    assert build_filters([{"dclm": {"field": "quality"}}]).fields == ("quality",)
    assert DclmOptions().field == SCORE


def test_dclm_keeps_by_the_square_of_the_score():
    """1e5 scores over (0, 1): the number kept within 3 sigma of the rule's, in each tenth as well."""
    chain = build_filters([{"dclm": {}}])
    count = 100_000
    scores = [(number + 0.5) / count for number in range(count)]
    kept = [
        chain.apply(Document(LONG, "dclm", "shard.jsonl.zst", 977 * n, n, {SCORE: score})) is None
        for n, score in enumerate(scores)
    ]
    chances = [1.0 if s > 0.5 else s * s if s > 0.09532 else 0.0 for s in scores]
    for part in (slice(None), *(slice(n, n + count // 10) for n in range(0, count, count // 10))):
        expected = sum(chances[part])
        sigma = math.sqrt(sum(p * (1 - p) for p in chances[part]))
        assert abs(sum(kept[part]) - expected) <= 3 * sigma
    assert sum(kept[:9532]) == 0 and all(kept[50_000:])


def test_dclm_draws_by_the_id_alone():
    chain, other = build_filters([{"dclm": {}}]), build_filters([{"dclm": {}}])
    documents = [Document(LONG, "s", "f", n, n, {SCORE: 0.4}) for n in range(500)]
    forwards = {d.id: chain.apply(d) for d in documents}
    backwards = {d.id: other.apply(d) for d in reversed(documents)}
    assert forwards == backwards and len(set(forwards.values())) == 2
