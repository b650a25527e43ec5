"""Choosing one of several answers without tests: the program that most of them agree on."""

from __future__ import annotations

import ast
import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence

ALL_SETS = 10_000  # of n answers that are all looked at
SETS = 1_000  # that are drawn where there are more


def program_key(program: str) -> str:
    """What equal programs have in common: the syntax tree, which has no comments and no layout."""
    if not program:
        return ""
    try:
        return ast.dump(ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program


def chosen_by_majority(keys: Sequence[str]) -> int:
    """The first answer of the largest group of equal programs; answers without a program are in none."""
    counts = Counter(key for key in keys if key)
    if not counts:
        return 0
    most = max(counts.values())
    return next(place for place, key in enumerate(keys) if counts.get(key) == most)


def majority_score(keys: Sequence[str], passed: Sequence[bool], n: int, task: str) -> float:
    """How often the choice among n answers passes: over all sets of n, or over some where they are many.

    Args:
        keys: of each answer's program.
        passed: whether it is right.
        n: answers of which one is chosen, at most those that there are.
        task: its name, the seed of the sets that are drawn.
    """
    sets = list(_sets(len(keys), n, task))
    hits = sum(
        passed[places[chosen_by_majority([keys[place] for place in places])]] for places in sets
    )
    return hits / len(sets)


def _sets(count: int, n: int, task: str) -> Iterable[Sequence[int]]:
    """Places of n answers each, in the order in which the answers came."""
    if math.comb(count, n) <= ALL_SETS:
        return itertools.combinations(range(count), n)
    seed = int.from_bytes(hashlib.sha256(f"{task}/{n}".encode()).digest()[:8], "little")
    draw = random.Random(seed)
    return [sorted(draw.sample(range(count), n)) for _ in range(SETS)]
