"""Exact duplicates: equal texts after a named normalisation, told by 128 bits of their hash.

A signer says what a pass compares. This one gives a text one key; near.py gives one for each band.
Two different texts share a key by chance with probability 2^-128: among 10^10 texts about 10^-19.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from ...errors import ConfigError

KEY_BYTES = 16


class Signer(Protocol):
    """What a pass compares documents by: documents that share a key in some band are copies.

    Attributes:
        num_bands: keys of a text.
    """

    num_bands: int

    def sign(self, text: str) -> bytes | None:
        """``num_bands`` keys of ``KEY_BYTES`` each; None where the text has nothing to compare."""

    def identity(self) -> dict[str, Any]:
        """Plain values that decide the keys."""


def hash_of(text: str) -> bytes:
    """128 bits of a text (BLAKE2b), the same on every machine; half surrogate pairs are allowed."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def _as_it_is(text: str) -> str:
    return text


def _without_trailing_whitespace(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join([line.rstrip() for line in lines]).rstrip("\n")


NORMALISATIONS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"none": _as_it_is, "trailing_whitespace": _without_trailing_whitespace}
)


class ExactSigner:
    """Keys of texts that are to be equal.

    Args:
        normalisation: ``none``, or ``trailing_whitespace``: blanks at the ends of lines, the kind of line
            end and empty lines at the end of the text make no difference.

    Raises:
        ConfigError: another name.
    """

    num_bands = 1

    def __init__(self, normalisation: str = "none") -> None:
        if normalisation not in NORMALISATIONS:
            raise ConfigError(
                f"normalisation is {normalisation!r}; give one of {', '.join(NORMALISATIONS)}."
            )
        self.normalisation = normalisation
        self._normalise = NORMALISATIONS[normalisation]

    def sign(self, text: str) -> bytes | None:
        """The hash of the normalised text; None for an empty text, which preprocessing leaves out."""
        return hash_of(self._normalise(text)) if text else None

    def identity(self) -> dict[str, Any]:
        """Plain values that decide the keys."""
        return {"method": "exact", "normalisation": self.normalisation}
