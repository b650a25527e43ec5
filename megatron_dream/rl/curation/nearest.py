"""Near copies among many vectors, block against block: memory does not grow with the square of their number.

The first of a cluster is kept: a vector is a copy where an earlier one that was kept is at least so
similar. So every copy is near what stands for it, and a chain of small steps does not vanish whole.
Time: N K D products for N vectors, K kept, D numbers each; memory: one block of N and one of K at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ...device import current_device

BLOCK = 4096  # rows at once, and kept vectors that they are compared with: 64 MiB of similarities


class Vectors(Protocol):
    """[N, D]: an array, or what reads rows when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> NDArray[np.floating]:
        """Rows of a slice or of an array of numbers."""


def near_copies(
    vectors: Vectors, threshold: float, block: int = BLOCK
) -> Iterator[tuple[int, int, float]]:
    """The copies, in order.

    Args:
        vectors: [N, D], in memory or mapped; float16 is enough (1e-3 on a similarity).
        threshold: smallest cosine of a copy.
        block: rows at once.

    Yields:
        Number of a copy, of the first kept vector that it is near to, and their similarity.
    """
    kept: list[NDArray[np.int64]] = []
    for first in range(0, len(vectors), block):
        rows = _on_device(vectors[first : first + block])
        owner, similarity = _nearest_kept(rows, vectors, kept, threshold, block)
        _within(rows @ rows.T, owner, similarity, threshold, first)
        numbers = np.arange(first, first + len(rows))
        for row in np.flatnonzero(owner >= 0):
            yield int(numbers[row]), int(owner[row]), float(similarity[row])
        kept.append(numbers[owner < 0])


def _nearest_kept(
    rows: torch.Tensor,
    vectors: Vectors,
    kept: list[NDArray[np.int64]],
    threshold: float,
    block: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each row the first kept vector of earlier blocks that is near it, or -1."""
    owner = np.full(len(rows), -1, np.int64)
    similarity = np.zeros(len(rows), np.float32)
    for numbers in kept:
        for part in np.split(numbers, range(block, len(numbers), block)):
            if not len(part):
                continue
            near = rows @ _on_device(vectors[part]).T
            is_near = near >= threshold
            found = (is_near.any(1).cpu().numpy()) & (owner < 0)
            if not found.any():
                continue
            place = is_near.int().argmax(1)  # the first
            value = near.gather(1, place[:, None])[:, 0].cpu().numpy()
            owner[found] = part[place.cpu().numpy()[found]]
            similarity[found] = value[found]
    return owner, similarity


def _within(
    near: torch.Tensor,
    owner: NDArray[np.int64],
    similarity: NDArray[np.float32],
    threshold: float,
    first: int,
) -> None:
    """The same among the rows of one block, where what is kept is only known row by row."""
    lower = torch.tril(near >= threshold, diagonal=-1)
    rows, columns = lower.nonzero(as_tuple=True)  # in order of rows, then columns
    for row, column, value in zip(
        rows.tolist(), columns.tolist(), near[lower].tolist(), strict=True
    ):
        if owner[row] < 0 and owner[column] < 0:
            owner[row], similarity[row] = first + column, value


def _on_device(part: NDArray[np.floating]) -> torch.Tensor:
    """Rows in fp32 and of length 1, which float16 has made them lose by up to 1e-3."""
    rows = torch.from_numpy(np.array(part, np.float32)).to(current_device())
    return torch.nn.functional.normalize(rows)
