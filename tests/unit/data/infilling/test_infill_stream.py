"""Rows of the infilling stream against SPEC 6 told once more in plain loops, over 10,000 rows (acceptance).

``plain_row`` takes words from the generator itself and knows nothing of diffusion/infilling.py or rows.py:
it scans, drops, closes up, rolls and weighs one position at a time.
"""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.schema import DataConfig, DiffusionConfig, SftConfig
from megatron_dream.data.infilling.stream import InfillStream, trim
from megatron_dream.data.loader import MicroBatchIterator
from megatron_dream.data.stream import Row
from megatron_dream.diffusion.noise import (
    CLOSING_UP,
    POSITIONS,
    SAMPLE,
    NoiseStream,
    philox_words,
    unit_floats,
)
from megatron_dream.diffusion.rows import DEAD, PREDICTED, SEGMENT_START
from megatron_dream.tokenizer.load import load_tokenizer
from tests.unit.data.infilling.pair_tokenizer import BOS, EOS, EXPAND, MASK, PairTokenizer

ROWS_A_CASE, SMALL, CASES = 40, 50, 250  # 2,000 rows; 10,000 rows in the acceptance tier


class ListTexts:
    """Texts by number, again from the first after the last."""

    def __init__(self, texts: list[str], size: int = 100_000) -> None:
        self.texts, self.size = texts, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, n: int) -> tuple[str, int]:
        return self.texts[n % len(self.texts)], n % 3


@dataclass(frozen=True)
class Case:
    """Everything that a stream is made of."""

    texts: list[str]
    length: int
    seed: int
    diffusion: DiffusionConfig
    sft: SftConfig

    def stream(self, tokenizer: Any = None) -> InfillStream:
        data = DataConfig(sequence_length=self.length, seed=self.seed)
        tokenizer = tokenizer or PairTokenizer()
        return InfillStream(ListTexts(self.texts), tokenizer, data, self.diffusion, self.sft)


def plain_case(texts: list[str], length: int = 64, seed: int = 3, **sft: Any) -> Case:
    diffusion = DiffusionConfig(weight="linear")
    return Case(texts, length, seed, diffusion, SftConfig(task="infill", **sft))


def plain_parts(text: str, u: list[float], case: Case) -> list[list[int]]:
    """Ids of prefix, middle and suffix, cut to the row: far end of the suffix first, then of the prefix."""
    places = list(range(len(text) + 1))
    if u[5] >= case.sft.span_share:
        places = [p for p in places if p in (0, len(text)) or text[p - 1] == "\n"]
    start = places.pop(int(u[6] * len(places)))
    end = places[int(u[7] * len(places))]
    start, end = sorted((start, end))
    encode = PairTokenizer().encode
    prefix, middle, suffix = encode(text[:start]), encode(text[start:end]), encode(text[end:])
    while len(prefix) + len(middle) + len(suffix) + 2 > case.length:
        if suffix:
            suffix.pop()
        elif prefix:
            prefix.pop(0)
        else:
            middle.pop()
    return [prefix, middle, suffix]


def plain_row(case: Case, ordinal: int) -> dict[str, Any]:
    """SPEC 6, one row, one position at a time."""
    key = NoiseStream(case.seed, "sft").key
    u = unit_floats(philox_words(key, ordinal, SAMPLE, 8)).tolist()
    text, source = ListTexts(case.texts)[ordinal]
    prefix, middle, suffix = plain_parts(text, u, case)
    t = NoiseStream(case.seed, "sft").time(
        ordinal, t_min=case.diffusion.t_min, low_discrepancy=case.diffusion.low_discrepancy
    )
    room = case.length - 2 - len(prefix) - len(middle) - len(suffix)
    appended = int(u[3] * (min(63, room) + 1))

    # mask with probability t; the share is taken before EOS is appended
    masked = [number < t for number in uniform(key, ordinal, POSITIONS, len(middle))]
    q = case.sft.expand_probability
    if u[4] < 0.5 and middle:
        q *= 1 - sum(masked) / len(middle)
    labels, masked = middle + [EOS] * appended, masked + [True] * appended

    # scan left to right, then close up
    coins, dropped = uniform(key, ordinal, CLOSING_UP, len(labels)), set()
    for i in range(len(labels) - 1):
        if labels[i] == EOS:
            break
        if masked[i] and masked[i + 1] and coins[i] < q:
            dropped.add(i + 1)
            labels[i] = EXPAND
    kept = [i for i in range(len(labels)) if i not in dropped]

    num_deletions = sum(masked[i] and labels[i] == EOS for i in kept)
    row = [(BOS, BOS, 0.0, False)] + [(token, token, 0.0, False) for token in prefix]
    for i in kept:
        if not masked[i]:
            row.append((labels[i], labels[i], 0.0, False))
            continue
        weight = (1 - t) / (num_deletions if labels[i] == EOS else 1)
        row.append((MASK, labels[i], weight / normalizer(case), True))
    row += [(token, token, 0.0, False) for token in [*suffix, EOS]]

    # what the hidden state at i predicts is the token at i + 1
    following = [*row[1:], (0, 0, 0.0, False)]
    return {
        "tokens": [token for token, *_ in row],
        "labels": [label for _, label, *_ in following],
        "loss_weight": [weight for _, _, weight, _ in following],
        "flags": [(i == 0) + 2 * is_asked for i, (*_, is_asked) in enumerate(following)],
        "t": t,
        "source": source,
        "num_maskable": len(kept),
    }


def uniform(key: tuple[int, int], ordinal: int, purpose: int, size: int) -> list[float]:
    return unit_floats(philox_words(key, ordinal, purpose, size)).tolist()


def normalizer(case: Case) -> float:
    """Mean of 1 - t over masked tokens, or over maskable ones."""
    if not case.diffusion.normalize_weight:
        return 1.0
    return 1 / 6 if case.diffusion.denominator == "maskable_tokens" else 1 / 3


documents = st.text(st.sampled_from("aaabb  \n\né<"), min_size=1, max_size=40)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    share = st.sampled_from([0.0, 0.5, 1.0])
    return Case(
        texts=draw(st.lists(documents, min_size=1, max_size=4)),
        length=draw(st.integers(4, 90)),
        seed=draw(st.integers(0, 2**40)),
        diffusion=DiffusionConfig(
            weight="linear",
            normalize_weight=draw(st.booleans()),
            denominator=draw(st.sampled_from(["masked_tokens", "maskable_tokens"])),
            t_min=draw(st.sampled_from([0.0, 1e-3, 0.7])),
            low_discrepancy=draw(st.booleans()),
        ),
        sft=SftConfig(task="infill", expand_probability=draw(share), span_share=draw(share)),
    )


def check_rows(case: Case, first: int) -> None:
    stream = case.stream()
    for ordinal in range(first, first + ROWS_A_CASE):
        expected, row = plain_row(case, ordinal), stream[ordinal]
        assert row.tokens.tolist() == expected["tokens"]
        assert row.labels.tolist() == expected["labels"]
        assert row.flags.tolist() == expected["flags"]
        assert np.abs(row.loss_weight - np.array(expected["loss_weight"])).max() < 1e-6
        assert (row.t, row.source) == (expected["t"], expected["source"])
        assert (row.ordinal, row.num_maskable) == (ordinal, expected["num_maskable"])
        assert row.tokens.size <= case.length and row.tokens[0] == BOS
        assert stream.row_length(ordinal) == row.tokens.size
        assert stream.flags(ordinal).tolist() == [1] + [0] * (row.tokens.size - 1)


@settings(max_examples=SMALL, deadline=None)
@given(cases(), st.integers(0, 10_000))
def test_a_row_is_what_the_specification_says(case: Case, first: int) -> None:
    check_rows(case, first)


@pytest.mark.acceptance
@settings(max_examples=CASES, deadline=None)
@given(cases(), st.integers(0, 10_000))
def test_ten_thousand_rows_are_what_the_specification_says(case: Case, first: int) -> None:
    check_rows(case, first)


def test_types_are_those_of_every_stream() -> None:
    stream = plain_case(["ab\nab\n"]).stream()
    row = stream[0]
    assert isinstance(row, Row)
    found = [str(a.dtype) for a in (row.tokens, row.labels, row.loss_weight, row.flags)]
    assert found == ["int32", "int32", "float32", "uint8"]
    assert (stream.pad_id, stream.sequence_length, stream.has_whole_rows) == (EOS, 64, False)
    assert not stream.has_one_width and len(stream) == 100_000
    assert plain_case(["ab"], width="max").stream().has_one_width
    with pytest.raises(ValueError, match="read-only"):
        row.tokens[0] = 1  # the row is given out again


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_far_ends_are_cut_first(data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(0, 9)) for _ in range(3)]
    numbers = iter(range(100))
    parts = [[next(numbers) for _ in range(size)] for size in sizes]
    room = data.draw(st.integers(0, 30))
    prefix, middle, suffix = trim(*parts, room)
    whole = [*prefix, *middle, *suffix]
    assert len(whole) == min(room, sum(sizes))
    assert suffix == parts[2][: len(suffix)] and prefix == parts[0][sizes[0] - len(prefix) :]
    assert middle == parts[1][: len(middle)]
    assert not (len(prefix) < sizes[0] and suffix) and not (len(middle) < sizes[1] and prefix)


def test_an_ordinal_decides_everything() -> None:
    case = plain_case(["ab ab\naab b\n\nb", "aaab\n  ab\n"])
    one, two = case.stream(), pickle.loads(pickle.dumps(case.stream()))
    order = [7, 3, 7, 64, 0, 3]
    for n in order:
        assert same(one[n], two[n])
    for n in reversed(range(70)):  # another order, other rows kept
        assert same(two[n], one[n])
    assert not same(one[0], one[2])  # the same text, an epoch later
    other = replace(case, seed=4).stream()
    assert sum(same(one[n], other[n]) for n in range(50)) < 5


def same(one: Row, two: Row) -> bool:
    names = ("tokens", "labels", "loss_weight", "flags", "t", "source", "ordinal", "num_maskable")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)


def test_lengths_cost_no_second_row() -> None:
    texts = ListTexts(["ab\nab\n"])
    looks: Counter[int] = Counter()

    class Counted(ListTexts):
        def __getitem__(self, n: int) -> tuple[str, int]:
            looks[n] += 1
            return texts[n]

    case = plain_case([])
    data = DataConfig(sequence_length=64)
    stream = InfillStream(Counted([]), PairTokenizer(), data, case.diffusion, case.sft)  # type: ignore[arg-type]
    for n in range(32):
        stream.row_length(n), stream.flags(n)
    for n in range(32):
        stream[n]
    assert set(looks.values()) == {1} and len(looks) == 32


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 6])
def test_micro_batches_hold_the_rows_and_dead_padding(micro_batch: int) -> None:
    stream = plain_case(["ab\nab b\n", "a\n b aaab\n\n"], length=72).stream()
    steps = 12 // micro_batch
    batches = MicroBatchIterator(
        stream, micro_batch_size=micro_batch, num_microbatches=steps, stop_ordinal=12, width_unit=4
    )
    for batch in batches:
        rows = [stream[n] for n in batch["ordinal"].tolist()]
        width = batch["tokens"].shape[1]
        assert width % 4 == 0 and 0 <= width - max(row.tokens.size for row in rows) < 4
        for number, row in enumerate(rows):
            size = row.tokens.size
            assert batch["tokens"][number].tolist() == [*row.tokens, *[EOS] * (width - size)]
            assert batch["labels"][number].tolist() == [*row.labels, *[0] * (width - size)]
            assert batch["loss_weight"][number, size:].eq(0).all()
            dead = batch["flags"][number, size:].tolist()
            assert dead == [DEAD | SEGMENT_START, *[DEAD] * (len(dead) - 1)][: len(dead)]


DISTINCT = "".join(map(chr, [*range(48, 58), *range(65, 91), *range(99, 123)]))  # no pairs in it


def test_runs_have_the_published_shares() -> None:
    """An expand stands for 2 in 65%, for 3 in 22%, for 4 in 8% at q 0.5 (SPEC 6)."""
    stream, runs = plain_case([DISTINCT], length=400, span_share=1.0).stream(), []
    for n in range(4000):
        if stream.noise.infilling(n, 1, 0).fades:
            continue
        row = stream[n]
        middle = [label for label in row.labels.tolist() if label != EOS]
        places = [DISTINCT.find(chr(label)) if label < 256 else -1 for label in middle]
        for before, here, after in zip(places, places[1:], places[2:], strict=False):
            if here < 0 <= min(before, after):  # between two expands one cannot tell
                runs.append(after - before - 1)
    shares = np.bincount(runs, minlength=5)[2:5] / len(runs)
    assert len(runs) > 1500
    assert shares == pytest.approx([0.65, 0.22, 0.08], abs=0.04)


class Recorder(PairTokenizer):
    """Keeps what it was asked to encode."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, text: str) -> list[int]:
        self.asked.append(text)
        return super().encode(text)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_parts_make_the_text_and_middles_are_spans_in_the_configured_share(share: float) -> None:
    text, recorder, is_whole = "xxxxxxxxx\n" * 20, Recorder(), []
    stream = plain_case([text], length=400, span_share=share).stream(recorder)
    for n in range(1500):
        recorder.asked.clear()
        stream[n]
        prefix, middle, suffix = recorder.asked
        assert prefix + middle + suffix == text and middle
        is_whole.append(len(prefix) % 10 == 0 and len(middle) % 10 == 0)
    both_by_chance = 21 * 20 / (201 * 200)
    assert np.mean(is_whole) == pytest.approx(1 - share + share * both_by_chance, abs=0.04)


SOURCE = '''def area(width, height):
    """<|expand|> and <|mask|> are text here, <|endoftext|> too."""
    if width < 0:
        raise ValueError("naïve \u2014 negative")
    return width * height
'''


def check_text_comes_back(tokenizer: Any) -> None:
    """What is read is the text around the middle; what is asked for, without deletions, the middle."""
    case = plain_case([SOURCE], length=600, expand_probability=0.0)
    stream = case.stream(tokenizer)
    seen_literal = 0
    for n in range(150):
        row = stream[n]
        targets = [tokenizer.bos_id, *row.labels[:-1].tolist()]
        masked = [False, *((row.flags[:-1] & PREDICTED) > 0).tolist()]
        assert [
            tokenizer.mask_id if hidden else token
            for hidden, token in zip(masked, targets, strict=True)
        ] == row.tokens.tolist()
        assert targets[-1] == tokenizer.eos_id and not masked[-1]
        clean = [token for token in targets[1:-1] if token != tokenizer.eos_id]
        assert tokenizer.decode(clean) == SOURCE
        assert tokenizer.expand_id not in row.tokens and tokenizer.expand_id not in targets
        read = [t for t, hidden in zip(targets[1:], masked[1:], strict=True) if not hidden]
        seen_literal += "<|expand|>" in tokenizer.decode(read)
    assert seen_literal > 20


def test_text_comes_back_with_sentencepiece(sft_model: Any) -> None:
    check_text_comes_back(load_tokenizer(sft_model))


def test_text_comes_back_with_qwen2(shared_data: Any) -> None:
    tokenizer = load_tokenizer(shared_data / "qwen2_tokenizer")
    check_text_comes_back(tokenizer)
    stream = plain_case([SOURCE], length=200).stream(tokenizer)
    stream[0]
    assert same(pickle.loads(pickle.dumps(stream))[5], stream[5])


def test_parts_are_encoded_apart() -> None:
    """As when somebody infills: no token goes over a border, though one would in the whole text."""
    stream = plain_case(["aaaa"], span_share=1.0, expand_probability=0.0).stream()
    found = set()
    for n in range(400):
        row = stream[n]
        targets = [label for label in row.labels.tolist() if label < 300 and label not in (EOS, 0)]
        found.add(len(targets))
    assert found == {2, 3}  # "aa" is one token: cut at odd places it falls apart
