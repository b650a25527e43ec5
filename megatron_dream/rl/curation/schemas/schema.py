"""What a schema is, and taking fields out of records with their types checked."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....sandbox import ProblemError
from ....sandbox.formats import program_of
from ...problems import RlProblem

Fields = dict[str, Any]


class Unsuitable(Exception):
    """A record that is as it should be and yet no problem for RL on code; says why."""


@dataclass(frozen=True)
class Schema:
    """One way in which records are written.

    Attributes:
        name: what ``--input NAME:PATH`` calls it.
        needed: fields that every record has.
        optional: fields that are read where they are there.
        convert: a record's fields and its place to a problem; raises ProblemError with file, line and field,
            or Unsuitable.
    """

    name: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Callable[[Fields, str], RlProblem]


def text_of(fields: Fields, name: str, where: str, default: str | None = None) -> str:
    """A field that holds text; ``default`` where it is absent or null.

    Raises:
        ProblemError: it holds something else, or there is no default.
    """
    value = fields.get(name)
    if value is None:
        value = default
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise ProblemError(
            f"{where}: field {name!r} is missing or no text; mend or remove the record."
        )
    return value


def object_of(fields: Fields, name: str, where: str) -> Fields:
    """A field that holds an object, or JSON of one; empty where it is absent.

    Raises:
        ProblemError: it holds something else.
    """
    value = fields.get(name)
    if isinstance(value, str) and value.strip():
        value = json_of(value, name, where)
    if value in (None, ""):
        return {}
    if not isinstance(value, dict):
        raise ProblemError(f"{where}: field {name!r} is no object; mend or remove the record.")
    return value


def json_of(text: str, name: str, where: str) -> Any:
    """The value of a field that holds JSON.

    Raises:
        ProblemError: it does not.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            f"{where}: field {name!r} is no JSON ({str(error)[:80]}); mend or remove the record."
        ) from None


def stdin_text(value: Any) -> str:
    """An input or output of a script: text, a list of lines, or a number."""
    if isinstance(value, list):
        return "\n".join(map(stdin_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def paired(inputs: Any, outputs: Any, name: str, where: str) -> list[tuple[Any, Any]]:
    """Inputs and outputs, one for each.

    Raises:
        ProblemError: they are no lists of one length, or empty.
    """
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs:
        raise ProblemError(f"{where}: field {name!r}: inputs or outputs are missing.")
    if len(inputs) != len(outputs):
        raise ProblemError(
            f"{where}: field {name!r}: {len(inputs)} inputs and {len(outputs)} outputs; give one for each."
        )
    return list(zip(inputs, outputs, strict=True))


def value_of_text(text: str) -> Any:
    """JSON or a Python literal as its value; what is neither stays text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return text


def program_text(solution: str) -> str:
    """A solution without the fence around it, if it has one."""
    return program_of(solution) or solution


def digest(*parts: str) -> str:
    """A short name for a record without one, the same wherever its file lies."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
