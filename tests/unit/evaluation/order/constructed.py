"""Orders of generation made by hand, each after one pattern, over texts cut into tokens."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

CODE = '''def merge_sorted(first, second):
    """Merge two sorted lists into one."""
    result = []
    i = j = 0
    while i < len(first) and j < len(second):
        if first[i] <= second[j]:
            result.append(first[i])
            i += 1
        else:
            result.append(second[j])
            j += 1
    result.extend(first[i:])
    result.extend(second[j:])
    return result
'''

PROSE = """The program reads a list of numbers and prints the largest one.
First it goes through the list once and remembers what it has seen.
Then it compares every number with the one that was the largest so far.
At the end the answer is written, and nothing else is printed at all.
"""


def tokens_of(text: str) -> list[str]:
    """Words with the blank before them, runs of blanks, and single signs."""
    return re.findall(r"\n[ ]*| ?\w+| ?[^\w\s]|[ ]+", text)


def in_groups(order: Sequence[int], size: int) -> list[int]:
    """Steps from an order of positions, ``size`` of them a step."""
    steps = [0] * len(order)
    for number, position in enumerate(order):
        steps[position] = number // size
    return steps


def left_to_right(count: int, size: int = 1) -> list[int]:
    return in_groups(range(count), size)


def nearly_left_to_right(count: int, reach: float, seed: int) -> list[int]:
    """Every token comes up to ``reach`` positions early or late."""
    draw = random.Random(seed)
    key = [i + draw.uniform(-reach, reach) for i in range(count)]
    return in_groups(sorted(range(count), key=key.__getitem__), 1)


def chosen_first(count: int, is_chosen: Callable[[int], bool], size: int = 1) -> list[int]:
    """Some from left to right, then the others from left to right."""
    order = sorted(range(count), key=lambda i: (not is_chosen(i), i))
    return in_groups(order, size)


def in_turn(count: int, parts: int) -> list[int]:
    """As many equal parts, one token of each in turn."""
    length = -(-count // parts)
    return in_groups(sorted(range(count), key=lambda i: (i % length, i // length)), 1)


def neighbours_in_turn(segments: Sequence[int]) -> list[int]:
    """Segments 0 and 1 in turn, token by token, then 2 and 3, and so on."""
    places: dict[int, int] = {}
    keys = []
    for position, segment in enumerate(segments):
        segment = max(segment, 0)
        place = places.get(segment, 0)
        places[segment] = place + 1
        keys.append((segment // 2, place, segment, position))
    return in_groups(sorted(range(len(segments)), key=keys.__getitem__), 1)


def at_random(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return in_groups(order, 1)
