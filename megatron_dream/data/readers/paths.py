"""Fields of a record by dotted names: ``text``, ``meta.text``, ``messages.*.content``.

A number takes one element of a list, ``*`` all of them. A record that has the whole name as a key
is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...errors import ConfigError

_MISSING = object()


class RecordError(Exception):
    """The record is no document; says why."""


class MissingFieldError(RecordError):
    """The record lacks a field."""


@dataclass(frozen=True)
class FieldPath:
    """Where a value lies in a record."""

    name: str

    def __post_init__(self) -> None:
        if not self.name or not all(self.name.split(".")):
            raise ConfigError(
                f"{self.name!r} is no name of a field; write `text`, or `meta.text` for a field in a field."
            )

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """The names between the dots."""
        return tuple(self.name.split("."))

    def value(self, record: Mapping[str, Any]) -> Any:
        """What lies there.

        Raises:
            MissingFieldError: nothing does; names the fields there are.
        """
        if self.name in record:
            return record[self.name]
        value = _descend(record, self.steps) if len(self.steps) > 1 else _MISSING
        if value is _MISSING:
            raise MissingFieldError(
                f"field {self.name!r} is missing; the record has {names_in_words(record)}"
            )
        return value

    def column(self, columns: list[str]) -> str | None:
        """The column of a table that holds it; None where there is none."""
        if self.name in columns:
            return self.name
        return self.steps[0] if self.steps[0] in columns else None


def _descend(value: Any, steps: tuple[str, ...]) -> Any:
    for number, step in enumerate(steps):
        if isinstance(value, Mapping):
            value = value.get(step, _MISSING)
        elif isinstance(value, list) and step == "*":
            found = [_descend(item, steps[number + 1 :]) for item in value]
            return _MISSING if any(item is _MISSING for item in found) else found
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _MISSING
        if value is _MISSING:
            return _MISSING
    return value


def names_in_words(record: Mapping[str, Any], most: int = 12) -> str:
    """The record's fields for a message, not all of a thousand."""
    names = [repr(name if len(name) <= 40 else f"{name[:37]}...") for name in record]
    if not names:
        return "no fields"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
