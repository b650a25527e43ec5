"""Generation for a benchmark: tasks dealt in batches to ranks, samples on disk as they are made, resumable.

A sample's draws are keyed by (seed, benchmark, task, sample number). Batches are cut once, from all items in
a fixed order, whatever was done before and however many ranks there are: a batch of which a kill left a
part is run again whole and only what is missing is written. So two runs with one seed give the same
samples to the byte, killed or not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..benchmarks.base import Task
from ..progress import sample_progress
from .models import Made, Model, Row
from .records import Key, SampleFile, read_samples
from .settings import Settings

Json = dict[str, Any]
Barrier = Callable[[], None]


@dataclass(frozen=True)
class Place:
    """This process among those that generate.

    Attributes:
        rank: from 0.
        world_size: processes.
        barrier: waits for all of them.
    """

    rank: int = 0
    world_size: int = 1
    barrier: Barrier = lambda: None


@dataclass(frozen=True)
class Item:
    """One sample to make."""

    task: Task
    sample: int
    row: Row
    seed: int

    @property
    def key(self) -> Key:
        """In the files."""
        return self.task.id, self.sample


def seed_of(seed: int, benchmark: str, task_id: str, sample: int) -> int:
    """The seed of one sample, below 2^63."""
    digest = hashlib.sha256(f"{seed}/{benchmark}/{task_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def plan_batches(
    model: Model, benchmark: str, tasks: Sequence[Task], settings: Settings, batch_size: int
) -> list[list[Item]]:
    """All samples in batches, prompts of about one length together.

    Raises:
        DataError: a prompt does not fit the model; found before anything is generated.
    """
    rows = [model.encode(task, settings) for task in tasks]
    items = [
        Item(task, sample, row, seed_of(settings.seed, benchmark, task.id, sample))
        for task, row in zip(tasks, rows, strict=True)
        for sample in range(settings.num_samples)
    ]
    # gaps of one length stand together: a batch has one number of steps
    items.sort(key=lambda item: (item.row.num_masks, item.row.size, item.key))
    batches: list[list[Item]] = []
    for item in items:
        last = batches[-1] if batches else []
        if last and len(last) < batch_size and last[0].row.num_masks == item.row.num_masks:
            last.append(item)
        else:
            batches.append([item])
    return batches


def generate(
    model: Model,
    benchmark: str,
    tasks: Sequence[Task],
    settings: Settings,
    folder: Path,
    batch_size: int,
    place: Place | None = None,
    quiet: bool = False,
) -> None:
    """Make every sample that ``folder`` has not yet; returns when all ranks are done.

    Args:
        model: asked.
        benchmark: its name, for seeds.
        tasks: all of them, on every rank.
        settings: how.
        folder: it exists on every rank.
        batch_size: samples that run together; part of what a sample depends on by rounding.
        place: of this process.
        quiet: no progress.
    """
    place = place or Place()
    batches = plan_batches(model, benchmark, tasks, settings, batch_size)
    with SampleFile(folder, place.rank) as file:
        place.barrier()  # torn lines are gone everywhere
        done = read_samples(folder)
        place.barrier()  # nobody adds before all have read
        left = [batch for batch in batches if any(item.key not in done for item in batch)]
        mine = left[place.rank :: place.world_size]
        total = sum(len(batch) for batch in mine)
        with sample_progress(benchmark, total, quiet=quiet or place.rank > 0) as count:
            for batch in mine:
                file.append(_lines(model, batch, settings, done))
                count(len(batch))
        place.barrier()


def _lines(
    model: Model, batch: Sequence[Item], settings: Settings, done: dict[Key, Json]
) -> list[Json]:
    started = time.monotonic()
    made = model.answer(
        [item.row for item in batch],
        [item.seed for item in batch],
        [item.task for item in batch],
        settings,
    )
    seconds = (time.monotonic() - started) / len(batch)
    return [
        _line(item, answer, seconds)
        for item, answer in zip(batch, made, strict=True)
        if item.key not in done
    ]


def _line(item: Item, made: Made, seconds: float) -> Json:
    return {
        "task_id": item.task.id,
        "sample_index": item.sample,
        "answer": made.text,
        "seed": item.seed,
        "num_tokens": made.num_tokens,
        "num_forward": made.num_forward,
        "num_columns": made.num_columns,
        "flops": made.flops,
        "opened": list(made.opened),
        "seconds": round(seconds, 4),
    }
