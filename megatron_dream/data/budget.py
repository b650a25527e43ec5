"""A number of tokens as people write it: ``322e9``, ``322_000_000_000``, ``322B``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import ClassVar

import yaml

from ..config.convert import Converter, Place
from ..errors import ConfigError

MAX_TOKENS = 10**18  # counts of tokens and bytes stay below 2^63
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_FORM = re.compile(rf"({_DIGITS}(?:\.{_DIGITS})?)(?:[eE]\+?([0-9]{{1,2}})| ?([kKmMbBtT]))?")
_UNITS = {"": 0, "k": 3, "m": 6, "b": 9, "t": 12}
_SHOWN = 40  # characters of a wrong value that an error repeats


def parse_tokens(text: str) -> int:
    """The number of tokens that a text means, exactly; K, M, B, T are thousands to millions of millions.

    Raises:
        ValueError: it is none, or not between 1 and 10^18; says what is wrong, as the rest of a
            sentence.
    """
    match = _FORM.fullmatch(text.strip()) if len(text) <= 2 * _SHOWN else None
    if match is None:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise ValueError(f"must be {TokenBudget.description}, found {shown!r}")
    digits, exponent, unit = match.groups()
    value = Decimal(digits.replace("_", "")).scaleb(
        int(exponent or 0) + _UNITS[(unit or "").lower()]
    )
    if value != value.to_integral_value():
        raise ValueError(f"is {text.strip()}, which is no whole number; give whole tokens")
    if not 1 <= value <= MAX_TOKENS:
        raise ValueError(f"is {text.strip()}; give 1 to 10^18 tokens")
    return int(value)


class TokenBudget(int):
    """A number of tokens in a YAML file (config/convert.py: OwnForm)."""

    description: ClassVar[str] = "a number of tokens, such as 322e9, 322_000_000_000 or 322B"

    @classmethod
    def from_node(cls, node: yaml.Node, place: Place, converter: Converter) -> TokenBudget:
        """Read a scalar, quoted or not.

        Raises:
            ConfigError: with file, line and field.
        """
        if not isinstance(node, yaml.ScalarNode):
            found = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
            raise ConfigError(f"{place.at(node)} must be {cls.description}, found {found}.")
        try:
            return cls(parse_tokens(str(node.value)))
        except ValueError as error:
            raise ConfigError(f"{place.at(node)} {error}.") from None

    def to_plain(self) -> int:
        """The same number."""
        return int(self)
