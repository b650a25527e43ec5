"""The files of a save: who writes which, of what size, and whether every value is written exactly once.

megatron-core's rules: what several ranks of a data-parallel group hold is dealt out to them, the largest
first; a rank's tensors go into two files, again the largest first. Sizes are those of the values; each
tensor has a header of about a kilobyte besides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..checkpoint.shards import STATE_TENSORS, deal_out
from ..errors import LayoutError
from .shapes import RankClass, Stored

FILES_A_RANK = 2  # megatron-core's thread_count


@dataclasses.dataclass
class SavePlan:
    """What one save writes.

    Attributes:
        optimizer_format: of the optimizer.
        files: bytes by name, of the files that ranks write.
        by_rank: bytes by global rank.
        model_bytes: of the weights.
        optimizer_bytes: of the optimizer.
    """

    optimizer_format: str
    files: dict[str, int]
    by_rank: dict[int, int]
    model_bytes: int
    optimizer_bytes: int

    @property
    def total(self) -> int:
        """Bytes of a save."""
        return sum(self.by_rank.values())


def save_plan(classes: Sequence[RankClass]) -> SavePlan:
    """Files of a save by all ranks.

    Raises:
        LayoutError: a tensor would not be written whole, or twice.
    """
    _check_coverage(classes)
    files: dict[str, int] = {}
    by_rank: dict[int, int] = {}
    totals = [0, 0]
    for held in classes:
        own = [
            [4 * (part.end - part.start) for part in parts for _ in range(STATE_TENSORS)]
            for parts in held.shard_parts
        ] or [[] for _ in held.members]
        shared = [t.size for t in (*held.tensors, *held.optimizer_tensors) if t.is_main]
        writers, _ = deal_out(shared, [sum(sizes) for sizes in own])
        totals[0] += sum(tensor.size for tensor in held.tensors if tensor.is_main)
        totals[1] += sum(t.size for t in held.optimizer_tensors if t.is_main) + sum(map(sum, own))
        for size, writer in zip(shared, writers, strict=True):
            own[writer].append(size)
        for rank, sizes in zip(held.members, own, strict=True):
            by_rank[rank] = sum(sizes)
            for number, load in enumerate(_two_files(sizes)):
                files[f"__{rank}_{number}.distcp"] = load
    return SavePlan(classes[0].optimizer_format, files, by_rank, *totals)


def _two_files(sizes: list[int]) -> list[int]:
    """Bytes of each of a rank's files; files without tensors are not written."""
    count = min(FILES_A_RANK, len(sizes))
    return deal_out(sizes, [0] * count)[1] if count else []


def _check_coverage(classes: Sequence[RankClass]) -> None:
    """Every whole tensor of the model is the sum of the parts that are written of it."""
    whole: dict[str, int] = {}
    parts: dict[str, dict[tuple[int, ...], Stored]] = {}
    for held in classes:
        for tensor in held.tensors:
            whole[tensor.key] = tensor.whole
            if not tensor.is_main:
                continue
            if tensor.offset in parts.setdefault(tensor.key, {}):
                raise LayoutError(
                    f"{tensor.key} at {tensor.offset} would be saved by two classes of ranks; report this "
                    f"layout as a fault"
                )
            parts[tensor.key][tensor.offset] = tensor
    for key, elements in whole.items():
        found = sum(tensor.size for tensor in parts.get(key, {}).values())
        itemsize = _itemsize(classes, key)
        if found != elements * itemsize:
            raise LayoutError(
                f"{found // itemsize:,} of {elements:,} values of {key} would be saved; report this layout "
                f"as a fault"
            )


def _itemsize(classes: Sequence[RankClass], key: str) -> int:
    return next(t.itemsize for held in classes for t in held.tensors if t.key == key)
