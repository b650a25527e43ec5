"""Code inside answers: fences of Markdown, whether there is code, whether it is plainly Python.

Used by rules.py. All of it errs on the side of keeping a sample: what is not sure is not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^([ \t>]*)(`{3,}|~{3,})[ \t]*([^\n]*)$")
_PYTHON_NAMES = frozenset({"python", "py", "python3", "py3"})
_VERBS = (
    "write|implement|create|complete|code|generate|fix|debug|refactor|rewrite|convert|translate|develop|"
    "build|design|define|program|optimi[sz]e|modify|extend|give me|show me|provide|make|solve"
)
_NOUNS = (
    "functions?|programs?|code|scripts?|class(?:es)?|methods?|snippets?|quer(?:y|ies)|algorithms?|"
    "implementations?|regex(?:es)?|decorators?|subroutines?|macros?|"
    "python|javascript|typescript|java|c\\+\\+|rust|golang|sql|html|css|bash|haskell|kotlin|swift|php|ruby"
)
# A verb of making and, at most 80 characters further in the same sentence, a noun of programs.
_ASKS = re.compile(
    rf"\b(?:{_VERBS})\b[^.?!\n]{{0,80}}?(?<![\w-])(?:{_NOUNS})(?![\w-])", re.IGNORECASE
)
_STARTER = re.compile(
    r"(?:async\s+def|def|class)\s+\w+\s*[(:\[]|import\s+[\w.]+\s*(?:$|,|as\s|#)|from\s+[\w.]+\s+import\s"
    r"|@\w[\w.]*\s*(?:\(|$)|if\s+__name__\s*=="
)
_PROSE = re.compile(r"[A-Z][\w']*,? [\w']+,? [\w']|[-*] [A-Z]|\d+\. |#{2,} |\*\*")
_CODE_LINE = re.compile(
    r"^[ \t]{4,}\S|^\t\S|[{};]\s*$|^\s*[\w.\[\]'\"]+\s*[-+*/|&%]?=\s*\S|\w\([^()]*\)\s*[:;{]?\s*$"
    r"|^\s*(?:(?:async\s+)?def|class|func|fn|struct|interface|enum)\s+\w+\s*[\w<(:{]"
    r"|^\s*(?:#include|#define|import\s+[\w.{*]|from\s+[\w.]+\s+import\b|using\s+\w|package\s+\w|"
    r"SELECT\b|INSERT\s+INTO\b|CREATE\s+\w|UPDATE\s+\w|DELETE\s+FROM\b|const\s|let\s|var\s|public\s|"
    r"private\s|static\s|#!)|</?\w+[^<>]*>|=>|->|::|^\s*[$>]{1,3} \S"
)
_INLINE = re.compile(r"`[^`\n]+`")


@dataclass(frozen=True)
class Fence:
    """A fenced block.

    Attributes:
        info: first word behind the opening fence, lower case.
        text: lines inside, without the fence's own indentation.
        is_closed: whether a closing fence ends it.
    """

    info: str
    text: str
    is_closed: bool

    @property
    def is_python(self) -> bool:
        """Whether it says so, and is no transcript of a session."""
        return self.info in _PYTHON_NAMES and not self.text.lstrip().startswith(">>>")


def fences_of(text: str) -> list[Fence]:
    """Fenced blocks as CommonMark has them, also inside lists and quotations.

    A block opens with three or more backticks or tildes and ends with at least as many of the same
    and nothing behind, indented by at most three blanks more than the opening.
    """
    found: list[Fence] = []
    indent = mark = info = ""
    held: list[str] = []
    for line in text.split("\n"):  # splitlines would also cut at form feeds
        match = _FENCE.match(line)
        if not mark:
            if match and not ("`" in match[3] and match[2][0] == "`"):
                indent, mark, info = match[1], match[2], match[3]
                held = []
        elif match and _closes(match, indent, mark):
            found.append(_fence(info, held, indent, is_closed=True))
            mark = ""
        else:
            held.append(line)
    if mark:
        found.append(_fence(info, held, indent, is_closed=False))
    return found


def asks_for_code(question: str) -> bool:
    """Whether a prompt asks for code.

    It does when a verb of making (write, implement, fix, ...) is followed in its sentence, within 80
    characters, by a noun of programs (function, script, query, ...) or the name of a language; or when
    it is itself the beginning of Python source with a ``def`` or ``class``.
    """
    if _ASKS.search(question):
        return True
    return _starts_as_python(question) and bool(
        re.search(r"^(?:def|class)\s", question, re.MULTILINE)
    )


def has_code(response: str, fences: list[Fence]) -> bool:
    """Whether there is a fence, code between backticks, or one line that looks like code."""
    if fences or _INLINE.search(response):
        return True
    return any(_CODE_LINE.search(line[:2000]) for line in response.splitlines())


def python_sources(question: str, response: str, fences: list[Fence]) -> list[str]:
    """What of an answer is plainly Python and has to parse.

    Closed fences that say Python. Without any fence the whole response, if its first line of code is
    ``def``, ``class``, ``import``, a decorator and the like and no line at the margin reads as prose;
    and prompt + response, if the prompt begins so and the response goes on indented, as in HumanEval.
    """
    if fences:
        return [fence.text for fence in fences if fence.is_closed and fence.is_python]
    if _has_prose(response):
        return []
    if _starts_as_python(response):
        return [response]
    is_body = bool(re.match(r"(?:[ \t]*\n)*[ \t]+\S", response))
    if is_body and _starts_as_python(question) and not _has_prose(question):
        return [question + response]
    return []


def _closes(match: re.Match[str], indent: str, mark: str) -> bool:
    is_same = match[2][0] == mark[0] and len(match[2]) >= len(mark)
    return is_same and not match[3].strip() and len(match[1]) <= len(indent) + 3


def _fence(info: str, lines: list[str], indent: str, *, is_closed: bool) -> Fence:
    plain = [
        line.removeprefix(indent) if line.startswith(indent) else line.lstrip() for line in lines
    ]
    word = re.split(r"[\s{,:]", info.strip().strip("{}.").lower(), maxsplit=1)[0]
    return Fence(word, "\n".join(plain) + "\n", is_closed)


def _starts_as_python(text: str) -> bool:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            return bool(_STARTER.match(line))
    return False


def _has_prose(text: str) -> bool:
    """Whether a line at the margin, no comment, has the look of a sentence or a list."""
    return any(_PROSE.match(line) for line in text.splitlines())
