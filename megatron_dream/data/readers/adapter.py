"""Where a record's text is: a field, or a template over fields; and what else a record tells."""

from __future__ import annotations

import operator
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...errors import ConfigError
from .paths import FieldPath, MissingFieldError, RecordError

Record = Mapping[str, Any]
ROLES = ("licence", "language", "quality")


@dataclass(frozen=True)
class Adapter:
    r"""How to read the records of one corpus.

    Attributes:
        name: what ``--dataset`` calls it.
        hub: its name on the Hugging Face hub.
        text: field with the text; dotted names reach into fields.
        template: instead of ``text``, such as ``"{question}\n{answer}"``; ``{{`` is a brace.
        join: what goes between the strings of a list; None: a list is no text.
        licence: field with the licence of a record, or None.
        language: field with its language, or None.
        quality: field with its score, or None.
        corpus_licence: licence of all of it, where records have none of their own.
        suffixes: of its files in a folder.
        folder: of the hub's repository that holds this part of it.
        needs_fetch: whether the published files hold blob ids in place of text: then these fields are
            those that ``tools/fetch_swh.py`` writes.
        verified: whether the fields were checked against what the publisher documents.
        evidence: where they were found.
        note: what is uncertain in our reading.
    """

    name: str = ""
    hub: str = ""
    text: str = "text"
    template: str | None = None
    join: str | None = None
    licence: str | None = None
    language: str | None = None
    quality: str | None = None
    corpus_licence: str = ""
    suffixes: tuple[str, ...] = ()
    folder: str = ""
    needs_fetch: bool = False
    verified: bool = False
    evidence: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _ = self.needed, self.resolved(ROLES)  # a bad name or template is refused now

    def identity(self) -> dict[str, Any]:
        """Plain values that decide what is read."""
        names = ("text", "template", "join", "corpus_licence", *ROLES)
        return {name: getattr(self, name) for name in names}

    @cached_property
    def needed(self) -> tuple[FieldPath, ...]:
        """Fields that the text is made of."""
        if self.template is None:
            return (FieldPath(self.text),)
        return tuple(path for _, path in self._parts if path is not None)

    def resolved(self, asked: Sequence[str]) -> dict[str, FieldPath]:
        """Where fields lie that somebody asked for: roles by this table, others as they are."""
        found: dict[str, FieldPath] = {}
        for name in asked:
            place = getattr(self, name) if name in ROLES else name
            if place:
                found[name] = FieldPath(place)
        return found

    def columns(self, asked: Sequence[str], columns: list[str]) -> list[str]:
        """Columns of a table that are needed, in its order.

        Raises:
            MissingFieldError: the table lacks one that the text is made of.
        """
        wanted: set[str] = set()
        for path in self.needed:
            if (column := path.column(columns)) is None:
                path.value(dict.fromkeys(columns))  # raises, naming the columns
                raise MissingFieldError(f"field {path.name!r} is missing")
            wanted.add(column)
        for path in self.resolved(asked).values():
            if column := path.column(columns):
                wanted.add(column)
        return [name for name in columns if name in wanted]

    def text_getter(self) -> Callable[[Any], Any]:
        """The fastest way to the text of a good record; what it gives or raises is not told apart."""
        if self.template is None and self.join is None and "." not in self.text:
            return operator.itemgetter(self.text)
        return self.text_of

    def text_of(self, record: Record) -> str:
        """The text of a record.

        Raises:
            RecordError: there is none; says why.
        """
        if self.template is None:
            return self._string(self.needed[0], record)
        return "".join(
            literal + (self._string(path, record) if path else "") for literal, path in self._parts
        )

    def fields_getter(self, asked: Sequence[str]) -> Callable[[Record], dict[str, Any]] | None:
        """What takes asked fields out of a record; None where nothing was asked."""
        if not asked:
            return None
        places = self.resolved(asked)
        constant = {}
        if "licence" in asked and "licence" not in places and self.corpus_licence:
            constant["licence"] = self.corpus_licence

        def fields_of(record: Record) -> dict[str, Any]:
            found = dict(constant)
            for name, path in places.items():
                try:
                    value = path.value(record)
                except MissingFieldError:
                    continue
                if value is not None:
                    found[name] = value
            return found

        return fields_of

    @cached_property
    def _parts(self) -> tuple[tuple[str, FieldPath | None], ...]:
        return tuple(_parse_template(self.template or ""))

    def _string(self, path: FieldPath, record: Record) -> str:
        value = path.value(record)
        if isinstance(value, list) and self.join is not None:
            if all(isinstance(item, str) for item in value):
                return self.join.join(value)
            raise RecordError(f"field {path.name!r} is a list of other things than strings")
        if isinstance(value, RecordError):
            raise RecordError(f"field {path.name!r} {value}")
        if not isinstance(value, str):
            raise RecordError(f"field {path.name!r} is {kind_of(value)}, not a string")
        return value


def text_adapter(text: str = "text", template: str | None = None) -> Adapter:
    """An adapter for data that has none: a field of your own, or a template.

    Raises:
        ConfigError: the name or the template cannot be understood.
    """
    return Adapter(text=text, template=template)


def kind_of(value: object) -> str:
    """A JSON value's type in words."""
    names = {
        type(None): "null",
        bool: "a boolean",
        list: "a list",
        dict: "an object",
        str: "a string",
    }
    return names.get(type(value), "a number" if isinstance(value, int | float) else "no text")


def _parse_template(template: str) -> list[tuple[str, FieldPath | None]]:
    parts: list[tuple[str, FieldPath | None]] = []
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"The template {template!r} cannot be understood: {error}; write {{{{ for a brace."
        ) from None
    for literal, name, style, conversion in pieces:
        if style or conversion:
            raise ConfigError(f"The template {template!r} formats {name!r}; name the field only.")
        parts.append((literal, None if name is None else FieldPath(name)))
    if all(path is None for _, path in parts):
        raise ConfigError(f"The template {template!r} names no field; write it as {{field}}.")
    return parts
