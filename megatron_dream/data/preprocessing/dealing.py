"""Who works on which shard: dealt out one at a time, to whoever asks, in input order.

Nothing about the result depends on the dealing. Two dealers: the list of this process, and one that
asks rank 0 of an MPI job (mpi.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ...errors import DataError


class Dealer(Protocol):
    """Gives out shard numbers."""

    def next(self) -> int | None:
        """The next shard, or None when all are given out."""


class ListDealer:
    """Deals a list of shards.

    Args:
        shards: what is still to do, in order.
    """

    def __init__(self, shards: Iterable[int]) -> None:
        self._left = list(shards)[::-1]

    def next(self) -> int | None:
        """The next shard, or None when all are given out."""
        return self._left.pop() if self._left else None

    def stop(self) -> None:
        """Give out nothing more."""
        self._left.clear()


def shards_of_part(shards: Iterable[int], part: str) -> list[int]:
    """The shards of one task of a job array.

    Args:
        shards: all that are to do.
        part: ``I/N``: task I of N, counted from 0.

    Raises:
        DataError: not of that form, or I is not below N.
    """
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise DataError(f"--part is {part!r}; write I/N with I from 0 to N-1, such as 0/8.")
    return [shard for shard in shards if shard % int(count) == int(index)]
