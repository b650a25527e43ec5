"""The fast engine's ids are the tokenizer's own, for texts of every kind."""

import json
import random
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from megatron_dream.errors import DataError
from megatron_dream.tokenizer import fast_engine as module
from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.tokenizer.fast_engine import FastEngine

SURROUNDINGS = (
    "\u0323",
    "\u0301",
    "\u0334",
    "e",
    " ",
    "\n",
    "\U0001d16e",
    "\u0b47",
    "\u1100",
    "a\u0300",
)
MARKS = [c for c in range(0x110000) if unicodedata.combining(chr(c)) and not 0xD800 <= c < 0xE000]


@pytest.fixture(scope="module")
def qwen2(shared_data):
    return load_tokenizer(shared_data / "qwen2_tokenizer")


@pytest.fixture(scope="module")
def engine(qwen2):
    pytest.importorskip("gigatoken", reason="gigatoken is not installed")
    engine = FastEngine(qwen2)
    assert engine.why_slow is None
    return engine


def assert_equal(engine, text):
    found = engine.encode(text)
    assert np.array_equal(found, engine.tokenizer.encode(text)), repr(text[:80])


PIECES = ["<|im_start|>", "<|endoftext|>", "<|fim_prefix|>", "'s", "'LL", "  \n", "\r\n"]
COMMON = "ab 019'\t\r\n\0.,_-\u00a0\u2028\u3000\u1161\u11a8\uac00\u0130\u1e9e"
hostile = st.lists(
    st.one_of(
        st.sampled_from([chr(c) for c in MARKS]),
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(COMMON),
        st.sampled_from(PIECES),
    ),
    max_size=40,
).map("".join)


@settings(max_examples=600, deadline=None)
@given(hostile)
@example("e\u0301\u0323\u0334")
@example("<|mask|><|expand|><|endoftext|>")
def test_hostile_texts(engine, text):
    assert_equal(engine, text)


def test_both_ways_are_taken(engine):
    """A test of equality means something only if gigatoken does encode, and is kept from what differs."""
    fast, slow = engine.num_fast, engine.num_slow
    engine.encode("x = 1")
    engine.encode("h\u00e9 \u4e2d")
    assert (engine.num_fast, engine.num_slow) == (fast + 2, slow)
    known = [c for c in MARKS if module._DIFFERS == _status(engine, c)]
    assert known, "no combining mark differs: is the comparison real?"
    slow = engine.num_slow
    engine.encode("x" + chr(known[0]))
    assert engine.num_slow == slow + 1


def _status(engine, point):
    engine.encode(chr(point))
    return engine._status[point]


def test_large_words_and_runs(engine):
    for text in (
        "a" * 300_000,
        " " * 5000 + "x",
        "\n" * 3000,
        "\u0301" * 200,
        "=" * 4000,
        "1" * 999,
    ):
        assert_equal(engine, text)


LINES = st.lists(
    st.one_of(
        hostile, st.sampled_from(["\n", "\nabc", "\r\nabc", "  \n", "\n\n\nx", "!!\n", "'\nS"])
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(LINES, st.integers(0, 30))
@example(["=\n", "a\u0323\u0301", "\n\n", "'\nS"], 0)
def test_long_texts_are_encoded_in_parts(engine, lines, length):
    """The library's memory is that of a part, and what is odd in one does not slow the others."""
    odd = chr(next(c for c in MARKS if _status(engine, c) == module._DIFFERS))
    text = odd + "".join(lines) + "\nend"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LONG", length)
        slow = engine.num_slow
        assert_equal(engine, text)
        assert engine.num_slow > slow
        parts = engine._pieces(text)
        assert np.array_equal(engine.encode_exactly(text), engine.tokenizer.encode(text))
    assert "".join(parts) == text
    assert len(parts) > 1 or len(text) < length + len("\nend")


def test_only_a_known_split_is_cut(tmp_path):
    """A tokenizer that takes a line's end together with a word gives other ids in parts."""
    tokenizer = small_tokenizer(tmp_path / "t")
    assert not tokenizer.cuts_at_lines
    assert not FastEngine(tokenizer)._cuts_at_lines


def test_half_a_surrogate_pair_is_refused(engine):
    with pytest.raises(DataError, match="surrogate"):
        engine.encode("a\ud800")


def test_memory_of_words_is_bounded(engine, monkeypatch):
    before = engine._fast
    monkeypatch.setattr(module, "_CHECK_BYTES", 10)
    monkeypatch.setattr(module, "_REBUILD_GROWTH", -(1 << 60))
    engine.encode("some words that are over ten bytes")
    assert engine._fast is not before
    assert_equal(engine, "the same afterwards")


def test_letters_of_a_newer_unicode(engine):
    """U+32D9D is a letter since Unicode 17, and splits otherwise for a table that knows it."""
    for text in ("\U00032d9d&e", "\U000113c2\U000113b8", "\U00016d67\U00016d67", "\u0378\u0378e"):
        assert_equal(engine, text)


def test_every_canonical_composition(engine):
    for point in range(128, 0x110000):
        if unicodedata.decomposition(chr(point)) and not 0xD800 <= point < 0xE000:
            parts = unicodedata.normalize("NFD", chr(point))
            if parts != chr(point):
                assert_equal(engine, f"x{parts} {parts}\u0323&e{parts}")


@pytest.mark.acceptance
def test_four_hundred_thousand_hostile_strings(engine):
    generator = random.Random(0)
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    pools = (points, MARKS, range(0x300, 0x370), range(0x1100, 0x1200), range(32, 127))
    for _ in range(400_000):
        pieces = []
        for _ in range(generator.randint(1, 8)):
            pieces.append(chr(generator.choice(generator.choice(pools))))
            if generator.random() < 0.3:
                pieces.append(generator.choice(SURROUNDINGS))
        assert_equal(engine, "".join(pieces))


@pytest.mark.acceptance
def test_every_code_point_beside_others(engine):
    """Each one alone among what splits and composes, assigned or not."""
    points = [c for c in range(128, 0x110000) if not 0xD800 <= c < 0xE000]
    generator = random.Random(1)
    for start in range(0, len(points), 16):
        for point in points[start : start + 16]:
            others = generator.choices(SURROUNDINGS + ("&", "1", "'", "\t", "  "), k=2)
            assert_equal(engine, f"{others[0]}{chr(point)}{others[1]}x")


def small_tokenizer(folder, normalizer=None):
    """A byte-level BPE tokenizer of a few merges, made here."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    if normalizer is not None:
        library.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    library.train_from_iterator(["def add(a, b):\n    return a + b\n" * 20], trainer)
    folder.mkdir(exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


@settings(max_examples=200, deadline=None)
@given(text=hostile)
def test_another_tokenizer(tmp_path_factory, text):
    engine = _SMALL.get("engine")
    if engine is None:
        engine = _SMALL["engine"] = FastEngine(small_tokenizer(tmp_path_factory.mktemp("t")))
    assert_equal(engine, text)


_SMALL: dict = {}


def test_a_tokenizer_that_gigatoken_takes_otherwise_is_left_to_its_library(tmp_path):
    engine = FastEngine(small_tokenizer(tmp_path / "t", normalizers.Lowercase()))
    assert_equal(engine, "Some TEXT with Capitals")
    if engine.why_slow:
        assert engine.num_fast == 0


def test_a_wrong_engine_is_found_at_start(tmp_path, monkeypatch):
    class Wrong:
        def encode(self, text):
            return np.zeros(len(text), dtype=np.uint32)

    monkeypatch.setattr(module, "_gigatoken", lambda text: Wrong())
    engine = FastEngine(small_tokenizer(tmp_path / "t"))
    assert engine.why_slow is not None and "encodes" in engine.why_slow
    assert_equal(engine, "return a + b")


def test_without_gigatoken(tmp_path, monkeypatch):
    def absent(text):
        raise ImportError

    monkeypatch.setattr(module, "_gigatoken", absent)
    engine = FastEngine(small_tokenizer(tmp_path / "t"))
    assert engine.why_slow is not None and "pip install" in engine.why_slow
    assert_equal(engine, "return a + b")


def test_json_of_a_tokenizer_keeps_dreams_tokens(qwen2):
    names = {entry["content"] for entry in qwen2.json["added_tokens"]}
    assert {"<|mask|>", "<|expand|>"} <= names and json.dumps(qwen2.json["normalizer"])
