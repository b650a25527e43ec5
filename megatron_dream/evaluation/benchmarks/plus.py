"""EvalPlus's tests (HumanEval+, MBPP+) as tests of our judge.

A record holds inputs, not expectations: the reference solution gives them, in the process of the tests,
where EvalPlus caches them. Compared as EvalPlus compares: equal, or of one type and close where floats
are wanted (absolute 1e-6 or the record's ``atol``, relative 1e-7), and its special oracles.
"""

from __future__ import annotations

from typing import Any

from ...errors import DataError
from ...sandbox import Problem
from .base import text_field
from .plus_inputs import deserialise

# Entry points whose answers are compared otherwise (evalplus 0.3.1, eval/_special_oracle.py).
SET_EQUAL = ("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly",
             "larg_nnum", "intersection_array", "find_dissimilar", "Diff")  # fmt: skip
NOT_NONE = ("check_str", "text_match_three", "text_starta_endb")

_COMPARE = """
import copy as _copy
import math as _math

def _is_float(value):
    if isinstance(value, float):
        return True
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(v, float) for v in value)

def _close(found, wanted, atol):
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(_close(f, w, atol) for f, w in zip(found, wanted))
    if isinstance(wanted, complex) or isinstance(found, complex):
        return abs(found - wanted) <= atol + 1e-7 * abs(wanted)
    if not isinstance(wanted, (bool, int, float)) or not isinstance(found, (bool, int, float)):
        return False
    if _math.isinf(wanted) or _math.isinf(found) or _math.isnan(wanted) or _math.isnan(found):
        return found == wanted
    return abs(found - wanted) <= atol + 1e-7 * abs(wanted)

def _agrees(found, wanted, arguments):
    if _ORACLE == "polynomial":
        total = sum(c * _math.pow(found, i) for i, c in enumerate(arguments[0]))
        return abs(total) <= _ATOL
    if _ORACLE == "set":
        return set(found) == set(wanted)
    if _ORACLE == "not None":
        wanted = wanted is not None
        return found == wanted if isinstance(found, bool) else wanted == (found is not None)
    if _ORACLE == "anything":
        return True
    if found == wanted:
        return True
    if _ORACLE == "or zero" and found == 0:
        return True
    if _ORACLE == "surface" and _near_surface(found, arguments):
        return True
    if _ORACLE == "digits" and found == _digit_distance(*arguments):
        return True
    atol = 1e-6 if _ATOL == 0 and _is_float(wanted) else _ATOL
    return atol != 0 and type(found) is type(wanted) and _close(found, wanted, atol)

def _near_surface(found, arguments):
    side, height = arguments
    slant = _math.sqrt((side / 2) ** 2 + height ** 2)
    return abs(found - round(side ** 2 + 2 * side * slant)) <= _ATOL

def _digit_distance(first, second):
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width))
    return sum(abs(int(a) - int(b)) for a, b in pairs)

def check(candidate):
    reference = _reference()
    for _number, _arguments in enumerate(_inputs()):
        wanted = reference(*_copy.deepcopy(_arguments))
        found = candidate(*_copy.deepcopy(_arguments))
        assert _agrees(found, wanted, _arguments), f"input {_number}"
"""

_ORACLES = {
    "humaneval": {"find_zero": "polynomial"},
    "mbpp": {
        "are_equivalent": "anything",
        "sum_div": "or zero",
        "surface_Area": "surface",
        "digit_distance_nums": "digits",
        **dict.fromkeys(SET_EQUAL, "set"),
        **dict.fromkeys(NOT_NONE, "not None"),
    },
}


def plus_problem(
    record: dict[str, Any], where: str, dataset: str, base_only: bool = False
) -> Problem:
    """The problem of an EvalPlus record.

    Args:
        record: with ``base_input``, ``plus_input``, ``atol`` and ``canonical_solution``.
        where: of the record, for messages.
        dataset: ``humaneval`` or ``mbpp``; its oracles and its inputs that JSON cannot hold.
        base_only: without EvalPlus's own inputs.

    Raises:
        DataError: a field is missing.
    """
    task_id, entry_point = (
        text_field(record, "task_id", where),
        text_field(record, "entry_point", where),
    )
    reference = text_field(record, "canonical_solution", where)
    prompt = text_field(record, "prompt", where)
    inputs = [] if base_only else list(_list(record, "plus_input", where))
    inputs = [*_list(record, "base_input", where), *inputs]
    if dataset == "mbpp":
        inputs = deserialise(task_id, inputs)
    oracle = _ORACLES[dataset].get(entry_point, "")
    source = prompt + reference
    tests = "\n".join(
        (
            f"_ATOL, _ORACLE = {float(record.get('atol') or 0)!r}, {oracle!r}",
            "def _inputs():",
            "    inf, nan = float('inf'), float('nan')",
            f"    return {inputs!r}",
            "def _reference():",
            "    namespace = {}",
            f"    exec({source!r}, namespace)",
            f"    return namespace[{entry_point!r}]",
            _COMPARE,
        )
    )
    return Problem(task_id, "function", prompt, tests, (entry_point,), reference=reference)


def _list(record: dict[str, Any], name: str, where: str) -> list[Any]:
    value = record.get(name)
    if isinstance(value, dict) and not value:  # EvalPlus writes {} for none
        return []
    if not isinstance(value, list):
        raise DataError(
            f"{where}: field {name!r} is missing or no list; give the file that EvalPlus publishes."
        )
    return value
