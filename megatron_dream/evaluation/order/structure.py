"""What of a text is structure, and which segments it has: code by ast and tokenize, prose by lines.

Texts of models are often broken: of code the longest beginning that parses is taken by ast, and what
follows line by line. Definitions: docs/order.md.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["structure", "other", "layout"]
NO_SEGMENT = -1

_FENCE = re.compile(r"^[ \t]*```[^\n]*(?:\n|$)", re.MULTILINE)
# Begins of lines that prose has not, though "for", "if" and "return" may begin a sentence too.
_STATEMENT = re.compile(
    r"^[ \t]*(?:(?:async[ \t]+)?def[ \t]+\w+[ \t]*\(|class[ \t]+\w+[ \t]*[:(]|import[ \t]+[\w.]+[ \t\r]*$"
    r"|from[ \t]+[\w.]+[ \t]+import\b|(?:for|while|if|elif|with)\b[^\n]*:[ \t\r]*$"
    r"|(?:else|try|except\b[^\n]*):[ \t\r]*$|return[ \t]+[\w.\[\]()]+[ \t\r]*$)",
    re.MULTILINE,
)
_PARTS_OF_CODE = re.compile(
    r"^[ \t]*(?:async[ \t]+)?(?:def|class)\b[^\n]*|[()\[\]{}]|\b(?:"
    + "|".join(keyword.kwlist)
    + r")\b",
    re.MULTILINE,
)
_PARTS_OF_PROSE = re.compile(
    r"^[ \t]*(?:[-*#>+]+[ \t]+|\d+[.)][ \t]+)?\S+|[.,:;!?()\[\]{}\"'`]", re.MULTILINE
)

# What a token of bytes that are no character of their own is shown as (tokenizer/base.py: bytes_text).
_BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+")


@dataclass(frozen=True)
class Layout:
    """Of each token of a sample.

    Attributes:
        kinds: structure, other, or layout (blanks only).
        segments: numbers from 0 in order of position; ``NO_SEGMENT``: blanks only.
        is_code: the text holds code.
    """

    kinds: list[Kind]
    segments: list[int]
    is_code: bool


class _Marks:
    """Marks on the characters of a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_structure = np.zeros(len(text), dtype=bool)
        self.segment = np.full(len(text), NO_SEGMENT)
        self._number = 0
        self.has_code = False

    def add_segment(self, start: int, end: int) -> None:
        """From here on these characters belong to one."""
        self.segment[start:end] = self._number
        self._number += 1

    def add_lines(self, start: int, end: int) -> None:
        """A segment for each line that is not blank."""
        for line in re.finditer(r"[^\n]*\S[^\n]*", self.text[start:end]):
            self.add_segment(start + line.start(), start + line.end())

    def add_rest_of_lines(self, start: int, end: int) -> None:
        """What has no segment yet joins its line's first one; a line without any becomes one."""
        for line in re.finditer(r"[^\n]*\S[^\n]*", self.text[start:end]):
            here = slice(start + line.start(), start + line.end())
            segments = self.segment[here]
            known = segments[segments != NO_SEGMENT]
            if len(known):
                segments[segments == NO_SEGMENT] = known[0]
            else:
                self.add_segment(here.start, here.stop)

    def add_structure(self, start: int, end: int, parts: re.Pattern[str]) -> None:
        """What matches."""
        for part in parts.finditer(self.text[start:end]):
            self.is_structure[start + part.start() : start + part.end()] = True


def layout_of(prefix: str, tokens: Sequence[str]) -> Layout:
    """Kinds and segments of a sample's tokens.

    Args:
        prefix: what the sample goes on from, which says how it is to be read.
        tokens: their texts.
    """
    # Parts of a character read as letters: in a name, where signs would end the code, they are some.
    read = ["x" * len(token) if _BYTES.fullmatch(token) else token for token in tokens]
    marks = _Marks(prefix + "".join(read))
    for start, end, is_fenced in _parts(marks.text):
        if is_fenced or _looks_like_code(marks.text[start:end]):
            marks.has_code = True
            _mark_code(marks, start, end)
        else:
            marks.add_lines(start, end)
            marks.add_structure(start, end, _PARTS_OF_PROSE)
    kinds, segments = [], []
    place = len(prefix)
    for token in tokens:
        visible = [place + i for i, character in enumerate(token) if not character.isspace()]
        place += len(token)
        kinds.append(_kind(marks, visible))
        segments.append(int(marks.segment[visible[0]]) if visible else NO_SEGMENT)
    return Layout(kinds, _renumbered(segments), marks.has_code)


def _kind(marks: _Marks, visible: list[int]) -> Kind:
    if not visible:
        return "layout"
    return "structure" if 2 * marks.is_structure[visible].sum() >= len(visible) else "other"


def _renumbered(segments: list[int]) -> list[int]:
    """Numbers by the first token, so that they ascend with the position."""
    numbers: dict[int, int] = {NO_SEGMENT: NO_SEGMENT}
    for segment in segments:
        numbers.setdefault(segment, len(numbers) - 1)
    return [numbers[segment] for segment in segments]


def _parts(text: str) -> Iterator[tuple[int, int, bool]]:
    """What stands between code fences and outside, without the fences; (start, end, is fenced)."""
    start, is_fenced = 0, False
    for fence in _FENCE.finditer(text):
        yield start, fence.start(), is_fenced
        start, is_fenced = fence.end(), not is_fenced
    yield start, len(text), is_fenced


def _looks_like_code(text: str) -> bool:
    return bool(_STATEMENT.search(text)) or _holds_statements(_longest_parse(text)[0])


def _holds_statements(tree: ast.Module) -> bool:
    """More than names, constants and what is made of them, as a line of prose like ``Answer: 42`` is."""
    for statement in tree.body:
        is_annotation = isinstance(statement, ast.AnnAssign) and statement.value is None
        if not (isinstance(statement, ast.Expr) or is_annotation):
            return True
        if any(isinstance(node, ast.Call) for node in ast.walk(statement)):
            return True
    return False


def _longest_parse(text: str) -> tuple[ast.Module, int]:
    """The tree of as many lines as parse, and the number of their characters."""
    end = len(text)
    while end > 0:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(text[:end]), end
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            end = text.rfind("\n", 0, end)
    return ast.Module(body=[], type_ignores=[]), 0


def _mark_code(marks: _Marks, start: int, end: int) -> None:
    tree, length = _longest_parse(marks.text[start:end])
    middle = start + length
    text = marks.text[start:middle]
    offsets = _Offsets(text)
    for first, last, is_header in sorted(_statements(tree, text, offsets)):
        marks.add_segment(start + first, start + last)
        if is_header:
            marks.is_structure[start + first : start + last] = True
    for first, last, is_structure in _known_tokens(text, offsets):
        marks.is_structure[start + first : start + last] = is_structure
    marks.add_rest_of_lines(start, middle)
    marks.add_lines(middle, end)
    marks.add_structure(middle, end, _PARTS_OF_CODE)


class _Offsets:
    """From lines and columns to characters of a text."""

    def __init__(self, text: str) -> None:
        # As Python counts lines: not at every separator that str.splitlines knows.
        self._lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
        self._starts = np.cumsum([0, *map(len, self._lines)]).tolist()

    def of_bytes(self, line: int, column: int) -> int:
        """As ast counts columns: in bytes of UTF-8."""
        before = self._lines[line - 1].encode("utf-8", "surrogatepass")[:column]
        return int(self._starts[line - 1]) + len(before.decode("utf-8", "surrogatepass"))

    def of_characters(self, line: int, column: int) -> int:
        """As tokenize counts them: in characters."""
        return int(self._starts[line - 1]) + column


def _statements(tree: ast.Module, text: str, offsets: _Offsets) -> Iterator[tuple[int, int, bool]]:
    """(start, end, is a def or class header) of each statement; of a compound one up to its body."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        start = offsets.of_bytes(node.lineno, node.col_offset)
        body = getattr(node, "body", None) or getattr(node, "cases", None)
        if body:
            first = getattr(body[0], "pattern", body[0])  # of a match's case
            decorators = getattr(first, "decorator_list", [])
            line, column = first.lineno, first.col_offset
            if decorators:
                line, column = decorators[0].lineno, max(0, decorators[0].col_offset - 1)
            end = start + _header_length(text[start : offsets.of_bytes(line, column)])
        else:
            end = offsets.of_bytes(node.end_lineno or node.lineno, node.end_col_offset or 0)
        is_header = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield start, end, is_header


def _header_length(text: str) -> int:
    """Characters of a header, without the lines of blanks and comments that stand before its body."""
    lines = text.split("\n")
    while len(lines) > 1 and re.fullmatch(r"\s*(?:#.*)?", lines[-1]):
        lines.pop()
    return len("\n".join(lines))


def _known_tokens(text: str, offsets: _Offsets) -> Iterator[tuple[int, int, bool]]:
    """(start, end, is structure) of brackets and keywords, which are, and of comments, which are not."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
            is_bracket = token.type == tokenize.OP and token.string in "()[]{}"
            is_keyword = token.type == tokenize.NAME and keyword.iskeyword(token.string)
            if is_bracket or is_keyword or token.type == tokenize.COMMENT:
                first, last = (offsets.of_characters(*end) for end in (token.start, token.end))
                yield first, last, token.type != tokenize.COMMENT
    except (tokenize.TokenError, SyntaxError):
        return  # at the end of what parses nothing is missing but a line's end
