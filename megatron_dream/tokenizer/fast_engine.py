"""gigatoken beside the Hugging Face tokenizer: exactly the latter's ids, many times sooner.

gigatoken is not trusted, it is compared. Its tables of Unicode normalisation and classes are of
another version than those of `tokenizers`, so some code points come out differently. Rule: a code
point is compared when it is first seen, in surroundings that make marks compose and reorder and that
tell letters, numbers, blanks and the rest apart; a text goes to gigatoken if it is ASCII or all of its
code points came out equal, and to `tokenizers` otherwise. (Comparing all 1.1 million at start takes
40 s and more.) Pairs that compose with one another, which no comparison of single ones shows, are all
compared at start; code points that this Python's Unicode does not know may be of new pairs and go to
`tokenizers` unasked. For the others normalisation never changes (Unicode's stability policy). A
self-test at start compares what ASCII can do.
"""

from __future__ import annotations

import importlib
import re
import threading
import unicodedata
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ..errors import DataError
from ..memory import resident_bytes
from .base import Tokenizer
from .huggingface import HuggingFaceTokenizer

_UNKNOWN, _EQUAL, _DIFFERS = 0, 1, 2
_NUM_CODE_POINTS = 0x110000
# gigatoken remembers words and never forgets: 7 bytes for each byte of random words were measured.
_REBUILD_GROWTH = 1 << 29
_CHECK_BYTES = 1 << 25
_COMPARED_AT_ONCE = 64
# The library takes some 100 bytes for a character, so that one long text would be the peak of a job.
_LONG = 1 << 16
# Neither Qwen2's split nor NFC reaches over a line's end before an ASCII letter: what ends in blanks ends
# there, and no mark composes with a line's end.
_CUT = re.compile(r"\n(?=[A-Za-z])")
_COMPOSED = ((0xA0, 0x3400), (0xF900, 0x20000))  # where composed characters lie

_SELF_TEST = (
    "def f(x):\n    return x+1  # it's, he'll, WE'RE\n\n\n\tif a==b:\r\n\r\n  pass   \n",
    "0 12 345 6789 1e-9 0xFF 3.14_15 -7%",
    "!!! ??? ... ->= === /* */ // \\n \\t {}[]()<>@#$^&*~`|;:'\",.",
    "   leading\n \n  \n   \t \t\n trailing   ",
    "CamelCase snake_case SCREAMING_CASE kebab-case x1y2z3 a.b.c",
    "".join(map(chr, range(128))),
    "\x00\x01\x7f nul and del",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)


class FastEngine:
    """Encodes texts as one tokenizer does.

    Args:
        tokenizer: what is exact; a Hugging Face one gains, SentencePiece is its own engine.

    Attributes:
        why_slow: why every text goes to the tokenizer itself; None where gigatoken is used.
        num_fast: texts that gigatoken encoded.
        num_slow: texts that the tokenizer itself encoded.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.num_fast = self.num_slow = 0
        self._fast: Any = None
        self._json = ""
        self.why_slow = self._start()
        self._cuts_at_lines = (
            isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.cuts_at_lines
        )
        self._status = np.full(_NUM_CODE_POINTS, _UNKNOWN, dtype=np.uint8)
        self._status[:128] = _EQUAL
        if self._fast is not None:
            self._compare_pairs()
        self._bytes_since_check = 0
        self._held = resident_bytes()

    def encode(self, text: str) -> NDArray[np.integer[Any]]:
        """Ids of ``text``, whatever literals of special tokens it holds: [n].

        Raises:
            DataError: the text holds half of a surrogate pair.
        """
        if self._fast is not None and (text.isascii() or self._is_safe(text)):
            self.num_fast += 1
            self._bound_memory(len(text))
            ids: NDArray[np.integer[Any]] = self._fast.encode(text)
            return ids
        pieces = self._pieces(text)
        if len(pieces) == 1:
            return self._encode_slowly(text)
        return np.concatenate([self.encode(piece) for piece in pieces])

    def encode_exactly(self, text: str) -> NDArray[np.integer[Any]]:
        """Ids by the tokenizer itself: what ``encode`` has to equal."""
        return np.concatenate([self._encode_slowly(piece) for piece in self._pieces(text)])

    def _encode_slowly(self, text: str) -> NDArray[np.integer[Any]]:
        self.num_slow += 1
        return np.asarray(self.tokenizer.encode(text), dtype=np.int32)

    def _pieces(self, text: str) -> list[str]:
        """Parts of a long text that give its ids one after the other; it alone where there are none."""
        pieces, start = [], 0
        while self._cuts_at_lines and (cut := _CUT.search(text, start + _LONG)):
            pieces.append(text[start : cut.end()])
            start = cut.end()
        return [*pieces, text[start:]]

    def _start(self) -> str | None:
        """Make gigatoken's tokenizer; says why not."""
        if not isinstance(self.tokenizer, HuggingFaceTokenizer):
            return "a SentencePiece model is encoded by its own library"
        # Without added tokens a literal such as <|im_start|> in a text stays text.
        self._json = orjson.dumps({**self.tokenizer.json, "added_tokens": []}).decode()
        warming = threading.Thread(target=self.tokenizer.warm_up)  # both take half a second
        warming.start()
        try:
            self._fast = _gigatoken(self._json)
        except ImportError:
            return "gigatoken is not installed: pip install 'megatron-dream[data]'"
        except Exception as error:  # it raises nothing more precise for what it does not know
            return f"gigatoken cannot read {self.tokenizer.path}: {error}"
        finally:
            warming.join()
        literals = " ".join(token.content for token in self.tokenizer.added_tokens.values())
        for text in (*_SELF_TEST, literals):
            if not self._agrees(text):
                self._fast = None
                return f"gigatoken encodes {text[:40]!r} otherwise"
        return None

    def _is_safe(self, text: str) -> bool:
        """Whether every code point came out equal, comparing those that are new."""
        try:
            points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        except UnicodeEncodeError:
            raise DataError(
                "Text to encode holds half of a surrogate pair; mend or drop the record."
            ) from None
        status = self._status[points]
        highest = int(status.max())
        if int(status.min()) == _UNKNOWN:
            self._compare(np.unique(points[status == _UNKNOWN]).tolist())
            highest = int(self._status[points].max())
        return highest == _EQUAL

    def _compare(self, points: list[int]) -> None:
        """Compare code points where marks compose with them, go before them, or come after them.

        Many at once, a line each, and one by one where such a text differs.
        """
        unknown = [point for point in points if unicodedata.category(chr(point)) == "Cn"]
        self._status[unknown] = _DIFFERS
        points = sorted(set(points) - set(unknown))
        for start in range(0, len(points), _COMPARED_AT_ONCE):
            together = points[start : start + _COMPARED_AT_ONCE]
            if self._agrees("\n".join(probe for point in together for probe in _probes(point))):
                self._status[together] = _EQUAL
                continue
            for point in together:
                agrees = all(map(self._agrees, _probes(point)))
                self._status[point] = _EQUAL if agrees else _DIFFERS

    def _compare_pairs(self) -> None:
        """Compare all pairs that compose; where one differs, both of its code points do."""
        pairs = _composing_pairs()
        if not self._agrees("\n".join(f"x{pair}" for pair in pairs)):
            for pair in pairs:
                if not self._agrees(f"x{pair}"):
                    self._status[[point for point in map(ord, pair) if point > 127]] = _DIFFERS

    def _agrees(self, text: str) -> bool:
        return bool(np.array_equal(self._fast.encode(text), self.tokenizer.encode(text)))

    def _bound_memory(self, length: int) -> None:
        """Begin anew once the memory of words has grown too far."""
        self._bytes_since_check += length
        if self._bytes_since_check < _CHECK_BYTES:
            return
        self._bytes_since_check = 0
        if resident_bytes() > self._held + _REBUILD_GROWTH:
            self._fast = _gigatoken(self._json)
            self._held = resident_bytes()


def _probes(point: int) -> tuple[str, ...]:
    c = chr(point)
    composing = (f"e{c}\u0323", f"\u0301{c}", f"e{c}\u0334", f"\U0001d16e{c}", f"{c}{c}")
    # What a class of the split decides: where "&e" begins, who takes a blank, what a run of blanks
    # leaves over, whether digits stay apart, which letters end a contraction ('s and its long s).
    splitting = (f"{c}&e", f"&{c}", f" {c}", f"a  {c}  {c} e", f"1{c}1", f"'{c}x", f"{c}\t\r")
    return composing + splitting


def _composing_pairs() -> list[str]:
    """Pairs of code points with a canonical composition (Hangul's, a formula, apart)."""
    pairs = []
    for start, stop in _COMPOSED:
        for point in range(start, stop):
            parts = unicodedata.decomposition(chr(point)).split()
            if len(parts) == 2 and not parts[0].startswith("<"):
                pairs.append(chr(int(parts[0], 16)) + chr(int(parts[1], 16)))
    return pairs


def _gigatoken(tokenizer_json: str) -> Any:
    """Gigatoken's tokenizer; the only place that imports it."""
    return importlib.import_module("gigatoken").Tokenizer.from_json(tokenizer_json)
