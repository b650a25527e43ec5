"""Texts that tokenizers get wrong and records that readers get wrong, for data_bytes.py.

Half of them is made by hand, by rule and in full (every code point, every mark in company), half by
hypothesis under a fixed seed.
"""

from __future__ import annotations

import json
import random
import string
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

LOOKALIKES = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|fim_prefix|>",
    "<|repo_name|>", "<tool_call>", "</tool_call>", "<|vision_start|>",
)  # fmt: skip
FORBIDDEN = ("<|mask|>", "<|expand|>")  # as ids they end the command
NEARLY = (
    "<|endoftext|", "|endoftext|>", "<|endoftext >", "< |endoftext|>", "<|ENDOFTEXT|>", "<||>",
    "<|endoftext|>\u0338", "<|im_end|>\u0301", "\u226e|im_end|>", "<\u0338|im_end|>", "<|im_start|>\u200d",
    "\uff1c\uff5cendoftext\uff5c\uff1e", "<<|endoftext|>|>", "<|<|endoftext|>endoftext|>",
    "<|endo\u00adftext|>", "<s>", "</s>", "<0x41>", "<unk>", "\u2581", "\u0120", "<pad>", "[MASK]",
)  # fmt: skip
BAD_LINES = (
    rb'{"text": "\ud800"}', rb'{"text": "a\udc00b"}', rb'{"text": "\udc00\ud800"}', rb'{"text": "x\uDBFF"}',
    rb'{"text": "\ud83d \ude00"}', b'{"text": "\xed\xa0\x80"}', b'{"text": "\xff"}', b'{"text": "\xc0\x80"}',
    b'{"text": "\xf4\x90\x80\x80"}', b"broken", b'{"text": "cut', b'{"text": 1}', b'{"text": null}',
    b'{"text": ["a"]}', b'{"other": "a"}', b"[]", b'"text"', b"1", b'{"text": "a"} x', b'{"text": "\x00"}',
    b'{"text": "a\tb"}',
)  # fmt: skip
# Odd, but good: they are documents.
ODD_LINES = (
    rb'{"text": "\ud83d\ude00"}', rb'{"text": "\u0000"}', b'{"text": ""}', b'  {"text":"blanks"}  \r',
    b'{"text": "the last of two", "other": NaN}', rb'{"text": "kept", "other": "\ud800"}', b"", b" \t",
    b'{"text": "first", "text": "the last counts"}', '{"text": "\u2028\u2029\x85\x7f"}'.encode(),
    b'{"text": "big", "n": 123456789012345678901234567890}', rb'{"te\u0078t": "escaped name"}',
)  # fmt: skip
_WORD = 1_000_000
_BLOCK = 128  # Unicode's blocks begin at multiples of 16, all but the smallest at multiples of 128
_SCRIPTS = ((0, 0x3400), (0xA000, 0xAC00), (0xF900, 0x20000))  # else Han, Hangul, private, nothing


def write_hostile(path: Path, num_generated: int, seed_number: int, *, with_forbidden: bool) -> int:
    """Write the corpus as JSON Lines, bad records among the good ones; number of good ones."""
    texts = [*by_hand(), *generated(num_generated, seed_number)]
    if not with_forbidden:
        texts = [text for text in texts if not any(name in text for name in FORBIDDEN)]
    random.Random(seed_number).shuffle(texts)
    odd = [*BAD_LINES, *ODD_LINES]
    with open(path, "wb") as stream:
        stream.write(b"\xef\xbb\xbf")
        for number, text in enumerate(texts):
            line = json.dumps({"text": text}, ensure_ascii=number % 2 == 0)
            stream.write(line.encode("utf-8") + (b"\r\n" if number % 7 == 0 else b"\n"))
            if number % 100 == 99:
                stream.write(odd[number // 100 % len(odd)] + b"\n")
        stream.write(b"\n".join(odd))  # each at least once, and no line feed at the end
    return len(texts)


def by_hand() -> Iterator[str]:
    """Every code point, every mark, long words, lookalikes."""
    yield from every_code_point()
    yield from marks_in_company()
    yield from long_words()
    for one in (*LOOKALIKES, *NEARLY, *FORBIDDEN):
        yield from (
            one,
            f"x{one}y",
            f" {one} \n{one}{one}",
            f"\u0301{one}\u0301",
            f"{one}\u0323e\u0301",
        )
    yield from (
        "",
        "\0",
        "\0" * 1000,
        "a\0b\0\0c",
        "\ufeff",
        "\ufeffx",
        "\ufffe\uffff",
        "\r",
        "\r\n \r",
    )
    yield "\U0010ffff\U0001f468\u200d\U0001f469\u200d\U0001f467\ufe0f" * 50
    yield from (f"{count * ' '}x\n{count * chr(9)}y{count * ' '}" for count in range(40))


def every_code_point() -> Iterator[str]:
    """All 1,112,064 of them, those without a meaning too, alone and between letters and signs.

    Few to a text where scripts and signs are: one that the fast engine leaves to the library takes the
    whole text with it.
    """
    start = 0
    while start <= sys.maxunicode:
        count = 16 if any(first <= start < end for first, end in _SCRIPTS) else 256
        points = [p for p in range(start, start + count) if not 0xD800 <= p <= 0xDFFF]
        if points:
            yield "".join(map(chr, points))
            yield "".join(f"e{chr(point)}&1 " for point in points[:: 8 if count == 256 else 1])
        start += count


def marks_in_company() -> Iterator[str]:
    """Every combining mark behind letters, before and behind marks of other classes; and by block."""
    marks = [p for p in range(sys.maxunicode + 1) if unicodedata.category(chr(p)).startswith("M")]
    others = ("\u0301", "\u0323", "\u0334", "\u0345", "\u3099", "\U0001d165", "\u05b0")
    for mark in map(chr, marks):
        yield " ".join(f"a{mark}{other}o{other}{mark}" for other in others)
        yield f"e{mark} {mark}\n{mark}x\u1100{mark}\u1161\u11a8{mark}=1{mark}2{mark}{mark}"
    for start in sorted({point // _BLOCK * _BLOCK for point in marks}):
        block = [chr(point) for point in marks if start <= point < start + _BLOCK]
        yield "".join(f"e{mark}" for mark in block)
        yield "e" + "".join(reversed(block)) * 3


def long_words() -> Iterator[str]:
    """A megabyte without a blank, of one character or of many."""
    draw = random.Random(1)
    yield from (
        "a" * _WORD,
        "\u00e9" * (_WORD // 2),
        "e\u0301" * (_WORD // 3),
        "\u6f22" * (_WORD // 3),
    )
    yield from (" " * _WORD, "\n" * _WORD, "=" * _WORD, "7" * _WORD, "\U0001f600" * (_WORD // 4))
    yield "".join(draw.choices(string.ascii_letters, k=_WORD))
    yield "".join(draw.choices(string.printable, k=_WORD))
    yield "".join(draw.choices("ab", k=_WORD))


def generated(count: int, seed_number: int) -> list[str]:
    """About ``count`` texts by hypothesis, the same for the same seed and release."""
    texts: list[str] = []

    @seed(seed_number)
    @settings(
        max_examples=max(1, count // 10),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(_texts(), min_size=10, max_size=10))
    def collect(drawn: list[str]) -> None:
        texts.extend(drawn)

    collect()
    return texts


def _texts() -> st.SearchStrategy[str]:
    any_character = st.characters(codec="utf-8")
    marks = st.characters(categories=("Mn", "Mc", "Me"))
    astral = st.characters(min_codepoint=0x10000)
    spaces = st.characters(categories=("Zs", "Zl", "Zp", "Cc"))
    numbers = st.characters(categories=("Nd", "Nl", "No"))
    letters = st.characters(categories=("Lu", "Ll", "Lt", "Lm", "Lo"))
    return st.one_of(
        st.text(any_character, min_size=3, max_size=60),
        st.text(st.one_of(st.sampled_from("eoaE "), marks), min_size=5, max_size=40),
        st.text(st.one_of(astral, marks, spaces), min_size=5, max_size=40),
        st.text(st.one_of(numbers, spaces, letters, st.sampled_from("'&.\n\r\t")), max_size=40),
        _joined(
            (
                *LOOKALIKES,
                *NEARLY,
                *FORBIDDEN,
                *string.printable,
                "e\u0301",
                "\u212b",
                "def f(x):\n",
            )
        ),
    )


def _joined(parts: Sequence[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(parts), max_size=30).map("".join)
