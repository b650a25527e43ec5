"""What of a response counts as its answer (SPEC 8), by kind of prompt.

``function`` and ``stdin``: the program in the first closed fenced block. ``output``: a value, rather JSON,
from the first fenced block or else the whole text, compared after normalisation. What is not there is
None: the response has no format, and its reward is 0.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

_FENCE = re.compile(r"^[ \t]*```([^\n`]*)\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
FIELDS = ("output", "input")
_MAX_OBJECT = 100_000  # characters that are searched for an object
_MAX_INTEGER = 10**4000  # larger ones Python does not print (it stops at 4300 digits)
_MAX_DEPTH = 100  # of lists and objects; no answer is deeper
_MISSING = object()


def fenced_blocks(text: str) -> list[str]:
    """The insides of all closed fenced blocks, in order."""
    return [block for _, block in _FENCE.findall(text)]


def program_of(text: str, *, exactly_one: bool = False) -> str | None:
    """The program of a response, up to the first EOS already.

    Args:
        text: of the response.
        exactly_one: no program where there is more than one block.
    """
    blocks = fenced_blocks(text)
    if not blocks or (exactly_one and len(blocks) > 1):
        return None
    return blocks[0]


def value_of(text: str) -> Any | None:
    """The predicted value of a response: a field ``output`` or ``input`` if there is one, else the whole.

    Returns:
        A normalised value that ``==`` compares, or None where there is none that ``normalised`` takes.
    """
    blocks = fenced_blocks(text)
    body = (blocks[0] if blocks else text).strip()
    found = _json(body)
    if found is _MISSING:
        found = _last_object(body)
    if found is _MISSING:
        return None
    if isinstance(found, dict):
        found = next((found[name] for name in FIELDS if name in found), found)
    try:
        return ("value", normalised(found))
    except (ValueError, RecursionError):
        return None


def normalised(value: Any, depth: int = 0) -> Any:
    """One form for what is written in several: 1.0 and 1, tuples and lists, text that holds a literal.

    Numbers are compared to 12 digits; strings without spaces at their ends; a string that reads as a Python
    literal other than a string (or ``...``, which is text) is that literal. ``depth``: of what it lies in.

    Raises:
        ValueError: what no answer holds: integers of more than 4000 digits, complex numbers, bytes, lists and
            objects nested more than 100 deep.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    if isinstance(value, str):
        text = value.strip()
        literal = _literal(text)
        is_text = literal is _MISSING or literal is ... or isinstance(literal, str)
        return text if is_text else normalised(literal, depth + 1)
    if value is None or isinstance(value, bool):
        return ("constant", value)
    if isinstance(value, float) and not math.isfinite(value):
        return ("number", repr(value))
    if isinstance(value, float):
        value = float(f"{value:.12g}")
        return ("number", int(value) if value.is_integer() else value)
    if isinstance(value, int):
        if abs(value) >= _MAX_INTEGER:
            raise ValueError("an integer of more than 4000 digits")
        return ("number", value)

    def inner(item: Any) -> Any:
        return normalised(item, depth + 1)

    if isinstance(value, dict):
        pairs = [(inner(key), inner(item)) for key, item in value.items()]
        return ("object", sorted(pairs, key=repr))
    if isinstance(value, (set, frozenset)):
        return ("set", sorted(map(inner, value), key=repr))
    if isinstance(value, (list, tuple)):
        return ("list", [inner(item) for item in value])
    raise ValueError(f"{type(value).__name__} is no type of an answer")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _MISSING


def _literal(text: str) -> Any:
    if len(text) > _MAX_OBJECT:
        return _MISSING
    try:
        return ast.literal_eval(text)
    # SystemError: the parser of some Pythons 3.11 says so of deep nesting
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError, SystemError):
        return _MISSING


def _last_object(text: str) -> Any:
    """The last complete JSON object in a text that is none itself; the outermost of those that end there."""
    text = text[-_MAX_OBJECT:]
    decoder, found, place = json.JSONDecoder(), _MISSING, 0
    while (place := text.find("{", place)) >= 0:
        try:
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
    return found
