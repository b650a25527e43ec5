"""Near duplicates: MinHash signatures of word n-grams, cut into buckets for locality-sensitive hashing.

Signatures are datatrove's, number for number: its hash functions, its permutations, its seed. Its own
stages are not used, because they
- keep, of a cluster, the document that happened to join the largest set, not the first one;
- know a document by task rank and count, so that another number of tasks finds other documents;
- hold all pairs in one Python dict;
- split words with spaCy, and hash n-grams one Python call at a time.

Documents that share all hashes of one bucket are taken for near duplicates, as in datatrove; they are
not compared again.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..datatrove_package import datatrove_version
from .exact import KEY_BYTES
from .minhash import MinHasher

Words = Literal["code", "text"]
_BLOCK_CHARACTERS = 1 << 20  # of a text whose n-grams are held at once
_PATTERNS = {
    "code": (re.compile(r"\w+"), re.compile(r"\W")),
    "text": (re.compile(r"\S+"), re.compile(r"\s")),
}


@dataclass(frozen=True)
class MinhashParameters:
    """What makes two texts nearly the same; names and defaults are datatrove's ``MinhashConfig``.

    Attributes:
        n_grams: words of a shingle.
        num_buckets: chances to meet.
        hashes_per_bucket: that have to be equal for it.
        seed: of the permutations.
        precision: bits of a hash, 32 or 64.
        hash_fc: of shingles: ``sha1``, or datatrove's default ``xxhash``, which needs the package xxhash.
        words: ``code``: runs of letters, digits and underscores as they are; ``text``: what blanks
            separate after datatrove's ``simplify_text`` (lower case, no punctuation, numbers as 0, no
            accents). Under ``text`` all tables of numbers look alike, hence the default.
    """

    n_grams: int = 5
    num_buckets: int = 14
    hashes_per_bucket: int = 8
    seed: int = 1
    precision: Literal[32, 64] = 64
    hash_fc: Literal["sha1", "xxhash"] = "sha1"
    words: Words = "code"

    def __post_init__(self) -> None:
        for name in ("n_grams", "num_buckets", "hashes_per_bucket"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more.")
        choices: dict[str, tuple[Any, ...]] = {"precision": (32, 64), "words": get_args(Words)}
        for name, allowed in {**choices, "hash_fc": ("sha1", "xxhash")}.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; give one of {', '.join(map(str, allowed))}."
                )

    @property
    def threshold(self) -> float:
        """Similarity (Jaccard, of the sets of shingles) at which most pairs are found: (1/b)^(1/r)."""
        return float((1 / self.num_buckets) ** (1 / self.hashes_per_bucket))

    def probability(self, similarity: float) -> float:
        """That two documents of this similarity are found: 1 - (1 - s^r)^b."""
        return float(1 - (1 - similarity**self.hashes_per_bucket) ** self.num_buckets)

    def identity(self) -> dict[str, Any]:
        """Plain values that decide what is found; versions, since words and hashes are others' code."""
        versions = {
            "datatrove": datatrove_version(),
            "unicode": unicodedata.unidata_version,
            "python": ".".join(map(str, sys.version_info[:2])),
        }
        return {"method": "near", **asdict(self), "versions": versions}

    def describe(self) -> str:
        """What is searched, in a line."""
        found = ", ".join(f"{s:g}: {self.probability(s):.1%}" for s in (0.5, 0.7, 0.8, 0.9))
        return (
            f"texts that share word {self.n_grams}-grams; {self.num_buckets} buckets of "
            f"{self.hashes_per_bucket} hashes, threshold about {self.threshold:.2f} (found by "
            f"similarity: {found})"
        )


class NearSigner:
    """A key for each bucket of a text's signature.

    Args:
        parameters: what makes two texts nearly the same.

    Raises:
        MissingDependencyError: datatrove is not installed, or of a version that signs otherwise.
    """

    def __init__(self, parameters: MinhashParameters) -> None:
        self.parameters, self.num_bands = parameters, parameters.num_buckets
        self._hasher = MinHasher(parameters)
        self._is_code = parameters.words == "code"

    def sign(self, text: str) -> bytes | None:
        """128 bits of each bucket's hashes, one after the other.

        None where the text has fewer than ``n_grams`` words: it has no shingle to be alike in.
        """
        hashes = self.hashes(text)
        if hashes is None:
            return None
        rows = hashes.reshape(self.num_bands, -1)
        return b"".join(
            hashlib.blake2b(row.tobytes(), digest_size=KEY_BYTES).digest() for row in rows
        )

    def identity(self) -> dict[str, Any]:
        """Plain values that decide the keys."""
        return self.parameters.identity()

    def hashes(self, text: str) -> NDArray[np.unsignedinteger[Any]] | None:
        """The signature as datatrove has it: [num_buckets * hashes_per_bucket], or None."""
        lowest: NDArray[np.uint64] | None = None
        for shingles in self._shingles(text):
            block = self._hasher.lowest(shingles)
            lowest = block if lowest is None else np.minimum(lowest, block)
        return None if lowest is None else lowest.astype(f"<u{self.parameters.precision // 8}")

    def _shingles(self, text: str) -> Iterator[set[str]]:
        """Distinct shingles, block after block of the text; none is empty."""
        simplify: Callable[[str], str] | None = None if self._is_code else self._hasher.simplify
        if simplify is not None:
            text = simplify(text.encode("utf-8", "replace").decode())
        n, before = self.parameters.n_grams, list[str]()
        for words in _blocks_of_words(text, *_PATTERNS[self.parameters.words]):
            words = before + words
            shingles = set(map(" ".join, zip(*(words[i:] for i in range(n)), strict=False)))
            if shingles:
                yield shingles
            before = words[len(words) - n + 1 :] if len(words) >= n else words


def _blocks_of_words(
    text: str, word: re.Pattern[str], border: re.Pattern[str]
) -> Iterator[list[str]]:
    """The words of a text, about a megabyte at a time, none of them cut."""
    start = 0
    while start < len(text):
        found = border.search(text, start + _BLOCK_CHARACTERS)
        stop = found.start() if found else len(text)
        yield word.findall(text, start, stop)
        start = stop
