"""Source that its own language cannot read.

Python is parsed; other languages are not looked at, and counted by name.

The parser runs in a process of its own (parse_child.py): nested brackets have crashed or stalled
CPython's parser in more than one release, and neither a limit of recursion nor a signal handler ends
C code. A text over the limit of processor time is dropped; the limit is far from what real files take
(4 MB: about a second), so that a slower machine drops the same ones.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Literal

from ...errors import DataError
from ..document import Document
from .base import Filter, Options
from .language import LanguageBy, languages_of

Verdict = tuple[str, str, str] | None  # kind of error, message, line

_CHILD = Path(__file__).with_name("parse_child.py")
# What Python 3's parser says where the text is Python 2 (3.11 and 3.12).
_PYTHON2_MESSAGE = re.compile(
    r"Missing parentheses in call to '(?:print|exec)'|multiple exception types must be parenthesized"
    r"|leading zeros in decimal integer literals|parameters cannot be parenthesized"
)
# And where it only says "invalid syntax" or the like: raise E, "text"; 10L; ur""; a <> b; `a`.
_PYTHON2_LINE = re.compile(
    r"^\s*raise\s+[\w.]+\s*,|\b(?:0[xX][0-9a-fA-F]+|\d+)[lL]\b|\b[uU][rR][\"']|[\w)\]\"']\s*<>\s*[\w(\"'-]|(?:[=(,%+]|\breturn|\bprint)\s*`[^`]+`|^\s*exec\s+[\"'\w]"
    r"|^\s*print\s+[\"'\w]"
)


@dataclass
class ParsingOptions(Options):
    """What is parsed, and how far.

    Attributes:
        python2: what becomes of source that only Python 2 reads, as told by the first error.
        by: how the language is known, as of the filter ``languages``.
        field: the same.
        assume: language where nothing tells; empty: such documents are not looked at.
        max_bytes: longer Python is dropped unparsed.
        cpu_seconds: of the parser for one document; more drops it.
    """

    python2: Literal["drop", "keep"] = "drop"
    by: LanguageBy = "auto"
    field: str = "language"
    assume: str = ""
    max_bytes: int = 4 << 20
    cpu_seconds: float = 60.0

    def problem(self) -> str | None:
        """Limits that nothing meets."""
        if self.max_bytes < 1 or self.cpu_seconds <= 0:
            return "has a limit of 0 or less; give max_bytes and cpu_seconds over 0"
        return None


class ParsingFilter(Filter):
    """Drop Python that does not parse."""

    name: ClassVar[str] = "parseable"

    def __init__(self, options: ParsingOptions) -> None:
        super().__init__()
        self.options = options
        self.fields = () if options.by == "suffix" else (options.field,)
        self._parser = PythonParser(options.cpu_seconds)

    def apply(self, document: Document) -> str | None:
        """Parse Python; skip the rest by name."""
        names = languages_of(document, self.options.field, self.options.by)
        names = names or [name for name in [self.options.assume.lower()] if name]
        if "python" not in names:
            self.details[f"not parsed: {names[0][:40] if names else 'language unknown'}"] += 1
            return None
        if "\0" in document.text:
            return "Python with NUL"
        try:
            text = document.text.removeprefix("\ufeff").encode("utf-8")
        except UnicodeEncodeError:
            return "Python with lone surrogates"
        if len(text) > self.options.max_bytes:
            return f"Python over {self.options.max_bytes:,} bytes"
        return self._judge(self._parser.parse(text))

    def _judge(self, verdict: Verdict) -> str | None:
        if verdict is None:
            return None
        kind, message, line = verdict
        if kind == "SyntaxError" and is_python2(message, line):
            if self.options.python2 == "drop":
                return "Python 2"
            self.details["Python 2 kept"] += 1
            return None
        reasons = {
            "SyntaxError": "Python that does not parse",
            "Time": f"Python that takes over {self.options.cpu_seconds:g} s to parse",
            "Crash": "Python that crashes the parser",
        }
        return reasons.get(kind, "Python nested too deep for the parser")


def is_python2(message: str, line: str) -> bool:
    """Whether a syntax error of Python 3 is one that Python 2 would not have."""
    return bool(_PYTHON2_MESSAGE.search(message) or _PYTHON2_LINE.search(line))


class PythonParser:
    """CPython's parser in a child, which is started when needed and after each crash."""

    def __init__(self, cpu_seconds: float) -> None:
        self.cpu_seconds = cpu_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def parse(self, text: bytes) -> Verdict:
        """What is wrong with UTF-8 source; kinds ``Time`` and ``Crash`` are the end of a child.

        Raises:
            DataError: the child was killed twice by something else than the text.
        """
        for _ in range(2):
            answer = self._ask(text)
            if answer:
                return json.loads(answer)
            if verdict := self._post_mortem():
                return verdict
        raise DataError(
            "The process that parses Python was killed twice from outside; see that the machine has "
            "memory to spare, and start again."
        )

    def _ask(self, text: bytes) -> bytes:
        if self._child is None or self._owner != os.getpid():  # a forked worker needs its own
            self._start()
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(len(text).to_bytes(8, "little") + text)
            child.stdin.flush()
            return child.stdout.readline()
        except BrokenPipeError:
            return b""

    def _start(self) -> None:
        command = [sys.executable, "-I", "-S", str(_CHILD), str(self.cpu_seconds)]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self._owner = os.getpid()
        weakref.finalize(self, _end, self._child, self._owner)

    def _post_mortem(self) -> Verdict:
        """Why the child ended; None where the text is not to blame."""
        child, self._child = self._child, None
        assert child is not None
        for pipe in (child.stdin, child.stdout):
            _close(pipe)
        died_of = -child.wait()
        if died_of == signal.SIGPROF:
            return ("Time", "", "")
        if died_of in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL):
            return ("Crash", "", "")
        return None


def _end(child: subprocess.Popen[bytes], owner: int) -> None:
    """End a child whose parser is gone; a fork that inherited it must not."""
    if owner == os.getpid():
        _close(child.stdin)
        _close(child.stdout)
        child.kill()
        child.wait()


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass
