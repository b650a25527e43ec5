"""Inputs of MBPP+ that JSON cannot hold: which tasks take tuples, sets and complex numbers where.

The lists of tasks are facts about EvalPlus's data (evalplus 0.3.1, data/mbpp.py); without them a right
program fails, since (1, 2) is no [1, 2].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Input = list[Any]


def _tuples(value: Any, depth: int) -> Any:
    """Lists become tuples, ``depth`` levels deep; -1: all of them."""
    if depth == 0 or not isinstance(value, list):
        return value
    return tuple(_tuples(item, depth - 1) for item in value)


def _all_tuples(given: Input) -> Input:
    return [tuple(argument) for argument in given]


def _lists_of_tuples(given: Input) -> Input:
    return [[tuple(item) for item in argument] for argument in given]


def _first_list_of_tuples(given: Input) -> Input:
    return [[tuple(item) for item in given[0]], *given[1:]]


def _second_tuple(given: Input) -> Input:
    return [given[0], tuple(given[1]), *given[2:]]


def _first_tuple(given: Input) -> Input:
    return [tuple(given[0]), *given[1:]]


def _tuples_of_tuples(given: Input) -> Input:
    return [_tuples(argument, 2) for argument in given]


def _sets(given: Input) -> Input:
    return [[set(item) if isinstance(item, list) and item else {} for item in given[0]]]


def _dict_of_tuples(given: Input) -> Input:
    return [{name: tuple(value) for name, value in given[0].items()}, *given[1:]]


_KINDS: tuple[tuple[tuple[int, ...], Callable[[Input], Input]], ...] = (
    (
        (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630,
         726, 740, 744, 809),
        _all_tuples,
    ),
    (
        (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
        _lists_of_tuples,
    ),
    ((75, 413, 444, 753), _first_list_of_tuples),
    ((106, 750), _second_tuple),
    ((115,), _sets),
    ((124,), lambda given: [float(given[0]), complex(given[1])]),
    ((250, 405, 446, 617, 720, 763, 808, 307), _first_tuple),
    ((259, 401, 445), _tuples_of_tuples),
    ((278,), lambda given: [_tuples(given[0], 2)]),
    ((722,), _dict_of_tuples),
    ((252,), lambda given: [complex(given[0])]),
    ((580, 615, 791), lambda given: [_tuples(argument, -1) for argument in given]),
)  # fmt: skip
_KIND_OF = {number: kind for numbers, kind in _KINDS for number in numbers}


def deserialise(task_id: str, inputs: list[Input]) -> list[Input]:
    """The inputs of a task, each with the types that its functions take.

    Args:
        task_id: such as ``Mbpp/2``.
        inputs: as they stand in the file.
    """
    kind = _KIND_OF.get(int(task_id.rpartition("/")[2]))
    return inputs if kind is None else [kind(given) for given in inputs]
