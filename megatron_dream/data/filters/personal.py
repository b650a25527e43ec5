"""Personal data and keys, masked where they stand: the document stays.

E-mail and IP addresses (IPv4) are what datatrove's PIIFormatter finds (its patterns, its test for public
addresses), less what is certainly code: see ``_is_code_address`` and ``_is_version``. Its own
replacements rotate over documents, which would make the text depend on the worker; here each kind has
one. Only the surroundings of an ``@`` are given to its pattern, which takes quadratic time on long
lines without blanks.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...config.convert import nearest
from ...errors import MissingDependencyError
from ..document import Document
from .base import Filter, Options
from .keys import KEY_KINDS, mask_keys

KINDS = ("email", "ip", *KEY_KINDS)

# Runs of what an address may consist of. RFC 5321: 64 and 255 octets at most.
_BEFORE_AT = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*")
_AFTER_AT = re.compile(r"[A-Za-z0-9.:\[\]-]*")
_WINDOW = 320
_SOME_IP = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d")
_IP = re.compile(r"(?<![\w.])(?<![A-Za-z]-)(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\w|-[A-Za-z])", re.ASCII)
_VERSION_BEFORE = re.compile(
    r"(?:version|release|sections?|chapter|clause|\bver|\bv|§)[\s\"':=(._-]{0,8}$", re.IGNORECASE
)
# q@k.mT, x@layer.weight: attributes of matrices, where a name of a domain would end.
_ATTRIBUTES = frozenset(
    "data dot dtype grad h inv mt real shape t transpose value values weight".split()
)
_PICTURE = re.compile(r"[0-9](?:\.[0-9]+)?x\.")  # icon@2x.png
_SERVICES = ("git", "hg", "svn")  # git@host:path names a repository, not a person


@dataclass
class PersonalOptions(Options):
    """What is masked.

    Attributes:
        kinds: some of ``email``, ``ip`` and the kinds of keys.keys; default: all.
        email: what stands in an address's place.
        ip: the same; the default lies in a block kept for documentation (RFC 5737).
        key: the same for keys; ``{kind}`` is the kind in capitals.
    """

    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    email: str = "email@example.com"
    ip: str = "192.0.2.1"
    key: str = "<{kind}>"

    def problem(self) -> str | None:
        """A kind that nobody knows."""
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            near = nearest(unknown[0], KINDS)
            return f"names the kind {unknown[0]!r}; the nearest one is {near} (known: {', '.join(KINDS)})"
        return None if self.kinds else "names no kind; leave kinds out for all"


class PersonalFilter(Filter):
    """Mask, and count by kind."""

    name: ClassVar[str] = "personal_data"

    def __init__(self, options: PersonalOptions) -> None:
        super().__init__()
        self.options = options
        self._keys = [
            (kind, options.key.replace("{kind}", kind.upper()))
            for kind in KEY_KINDS
            if kind in options.kinds
        ]
        needs_formatter = "email" in options.kinds or "ip" in options.kinds
        self._formatter: Any = load_formatter() if needs_formatter else None

    def apply(self, document: Document) -> None:
        """Put masked text in the text's place."""
        document.text = self._mask(document.text, self.details)

    def redact(self, text: str) -> str:
        """The same for an excerpt, uncounted."""
        return self._mask(text, Counter())

    def _mask(self, text: str, counts: Counter[str]) -> str:
        count = 0
        for kind, placeholder in self._keys:
            text, count = mask_keys(text, kind, placeholder)
            if count:
                counts[f"masked {kind}"] += count
        if "email" in self.options.kinds and "@" in text:
            text, count = mask_emails(text, self._formatter.emails_replacer, self.options.email)
            if count:
                counts["masked email"] += count
        if "ip" in self.options.kinds and _SOME_IP.search(text):
            text, count = mask_ips(text, self._formatter.ip_replacer, self.options.ip)
            if count:
                counts["masked ip"] += count
        return text


def load_formatter() -> Any:
    """The PIIFormatter of datatrove.

    Raises:
        MissingDependencyError: it is not installed, or of a version without the parts used here.
    """
    try:
        module = importlib.import_module("datatrove.pipeline.formatters.pii")
        formatter = module.PIIFormatter()
        _ = formatter.emails_replacer.regex, formatter.ip_replacer.regex
        _ = formatter.ip_replacer.validator
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            f"The filter personal_data finds e-mail and IP addresses by datatrove ({error}): pip install "
            f"datatrove, or list other kinds only."
        ) from None
    return formatter


def mask_emails(text: str, finder: Any, placeholder: str) -> tuple[str, int]:
    """The text with e-mail addresses replaced, and how many there were.

    Args:
        text: any text.
        finder: datatrove's replacer of addresses.
        placeholder: goes in their place.
    """
    pieces: list[str] = []
    count = done = 0
    at = text.find("@")
    while at >= 0:
        start, stop = _surroundings(text, at, done)
        if start < at and stop > at + 1:
            judge = _address_judge(text, start)
            masked, found = _replace(text[start:stop], finder.regex, judge, placeholder)
            if found:
                pieces += (text[done:start], masked)
                done, count = stop, count + found
        at = text.find("@", stop)
    return ("".join(pieces) + text[done:], count) if count else (text, 0)


def mask_ips(text: str, finder: Any, placeholder: str) -> tuple[str, int]:
    """The text with public IPv4 addresses replaced, and how many there were."""

    def judge(match: re.Match[str]) -> bool:
        is_address = finder.regex.fullmatch(match.group()) and finder.validator(match.group())
        return bool(is_address) and not _is_version(text, match)

    return _replace(text, _IP, judge, placeholder)


def _replace(
    text: str, pattern: re.Pattern[str], judge: Callable[[re.Match[str]], bool], placeholder: str
) -> tuple[str, int]:
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        if match.group() == placeholder or not judge(match):
            return match.group()
        count += 1
        return placeholder

    return pattern.sub(replace, text), count


def _surroundings(text: str, at: int, done: int) -> tuple[int, int]:
    """Range around an ``@`` that holds any address through it; empty to a side where there is none."""
    backwards = text[max(done, at - _WINDOW) : at][::-1]
    before = _BEFORE_AT.match(backwards)
    after = _AFTER_AT.match(text, at + 1, at + 1 + _WINDOW)
    length, stop = (before.end() if before else 0), (after.end() if after else at + 1)
    if length == 0:
        return at, stop
    length = min(length + 1, len(backwards))  # one more: the pattern looks for a word's edge
    return at - length, stop


def _address_judge(text: str, start: int) -> Callable[[re.Match[str]], bool]:
    return lambda match: not _is_code_address(match.group(), _character(text, start + match.end()))


def _character(text: str, position: int) -> str:
    return text[position : position + 1]


def _is_code_address(address: str, following: str) -> bool:
    """Whether what looks like an address is code.

    A product of matrices with an attribute or a call (``q@k.T``, ``x@w.sum()``), a package with its
    version (``lodash@4.17.21``), a picture for dense screens (``icon@2x.png``), a repository
    (``git@github.com``).
    """
    local, _, domain = address.rpartition("@")
    top = domain.rpartition(".")[2].lower()
    if domain.startswith("["):
        return False
    is_no_domain = len(top) < 2 or not (top.isalpha() or top.startswith("xn--"))
    if is_no_domain or top in _ATTRIBUTES or domain.startswith(("self.", "cls.")):
        return True
    if following in ("(", "[") or _PICTURE.match(domain):
        return True
    return re.split(r"[^\w.-]", local)[-1].lower() in _SERVICES


def _is_version(text: str, match: re.Match[str]) -> bool:
    """Whether four numbers are a version or a section: said so before them, or the last two 0."""
    if match.group().endswith(".0.0"):
        return True
    return _VERSION_BEFORE.search(text, max(0, match.start() - 24), match.start()) is not None
