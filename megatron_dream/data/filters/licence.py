"""Licences by SPDX identifier: one, a list of detected ones, or an SPDX expression.

An expression is read as SPDX 2.3 annex D defines it: of ``A OR B`` one has to be allowed, of
``A AND B`` both; ``A WITH exception`` counts as A, since an exception only adds permissions.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..document import Document
from .base import Filter, Options, strings_of
from .permissive import LICENCE_SETS

# What scanners write where they found no licence, or none that they know (SPDX; ScanCode).
_UNKNOWN = frozenset({"noassertion", "none", "unknown", "no_license", "no-license", "other"})
_TOKENS = re.compile(r"[()]|[^\s()]+")
_MAX_TOKENS = 200  # of an expression; longer ones are no licence


@dataclass
class LicenceOptions(Options):
    """Which licences.

    Attributes:
        allow: SPDX identifiers, without regard to case, and names of sets (``permissive``); empty:
            all but those of ``deny``.
        deny: the same for licences that go; one of a document is enough.
        match: of a document with several licences ``all`` have to be allowed, or ``any``.
        field: of the record; ``licence`` is wherever the corpus keeps it.
        unknown: what becomes of documents without a known licence.
    """

    allow: list[str] = field(default_factory=list)
    deny: list[str] = field(default_factory=list)
    match: Literal["all", "any"] = "all"
    field: str = "licence"
    unknown: Literal["drop", "keep"] = "drop"

    def problem(self) -> str | None:
        """Nothing named, or a licence on both lists."""
        if not self.allow and not self.deny:
            return "names no licence; fill allow or deny"
        for name in (*self.allow, *self.deny):
            near = difflib.get_close_matches(name.lower(), LICENCE_SETS, 1, 0.8)
            if near and near[0] != name.lower():
                return f"has {name!r}, which is no licence; did you mean the set {near[0]}?"
        both = {name.lower() for name in self.allow} & {name.lower() for name in self.deny}
        return f"has {min(both)} in allow and in deny; keep one" if both else None


class LicenceFilter(Filter):
    """Keep documents under some licences."""

    name: ClassVar[str] = "licences"

    def __init__(self, options: LicenceOptions) -> None:
        super().__init__()
        self.options = options
        self.fields = (options.field,)
        self._allow, self._deny = _names(options.allow), _names(options.deny)

    def apply(self, document: Document) -> str | None:
        """Denied ones count before allowed ones, unknown ones only where nothing is known."""
        given = strings_of(document.fields.get(self.options.field))
        known = [text for text in given if not is_unknown(text)]
        if not known:
            return "licence unknown" if self.options.unknown == "drop" else None
        if self._deny and any(self._is_denied(text) for text in known):
            return "licence in deny"
        if not self._allow:
            return None
        judge = all if self.options.match == "all" else any
        if (
            self.options.match == "all"
            and len(known) < len(given)
            and self.options.unknown == "drop"
        ):
            return "one of several licences unknown"
        return None if judge(map(self._is_allowed, known)) else "licence not in allow"

    def _is_allowed(self, text: str) -> bool:
        return evaluate(text, lambda name: name in self._allow)

    def _is_denied(self, text: str) -> bool:
        # Denied unless some choice of the expression is free of denied licences.
        return not evaluate(text, lambda name: name not in self._deny)


def is_unknown(text: str) -> bool:
    """Whether a licence field says that nobody knows."""
    lower = text.lower()
    return lower in _UNKNOWN or "unknown" in lower


def evaluate(expression: str, holds: Callable[[str], bool]) -> bool:
    """Whether an SPDX expression holds when its licences do as ``holds`` says (lower case, no ``+``).

    What is no expression, such as a name with blanks, is taken as one name.
    """
    tokens = [token.lower() for token in _TOKENS.findall(expression)]
    if len(tokens) <= _MAX_TOKENS:
        reader = _Expression(tokens, holds)
        try:
            value = reader.any_of()
        except (IndexError, ValueError):
            pass
        else:
            if reader.position == len(tokens):
                return value
    return holds(expression.lower())


class _Expression:
    """Recursive descent: OR binds loosest, then AND, then WITH."""

    def __init__(self, tokens: list[str], holds: Callable[[str], bool]) -> None:
        self.tokens, self.holds, self.position = tokens, holds, 0

    def any_of(self) -> bool:
        value = self._all_of()
        while self._takes("or"):
            value = self._all_of() or value
        return value

    def _all_of(self) -> bool:
        value = self._licence()
        while self._takes("and"):
            value = self._licence() and value
        return value

    def _licence(self) -> bool:
        if self._takes("("):
            value = self.any_of()
            if not self._takes(")"):
                raise ValueError
            return value
        name = self._next()
        if name in ("and", "or", "with", ")"):
            raise ValueError
        if self._takes("with"):
            self._next()
        return self.holds(name) or (name.endswith("+") and self.holds(name[:-1]))

    def _next(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def _takes(self, token: str) -> bool:
        if self.position < len(self.tokens) and self.tokens[self.position] == token:
            self.position += 1
            return True
        return False


def _names(entries: list[str]) -> frozenset[str]:
    """Identifiers in lower case, with named sets taken apart."""
    return frozenset().union(*(LICENCE_SETS.get(e.lower(), {e.lower()}) for e in entries))
