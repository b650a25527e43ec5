"""Progress of sampling and of sweeps: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_INTERVAL_SECONDS = 30.0


@contextmanager
def sample_progress(
    name: str, total: int, *, quiet: bool = False, unit: str = "samples"
) -> Iterator[Callable[[int], None]]:
    """Count samples; yields what is called with the number of those that were made.

    Args:
        name: of the work.
        total: samples to make.
        quiet: show nothing.
        unit: what is counted.
    """
    started = time.monotonic()
    done, last = 0, started

    def rate() -> float:
        return done / max(1e-9, time.monotonic() - started)

    if quiet or not sys.stderr.isatty():

        def count(samples: int) -> None:
            nonlocal done, last
            done += samples
            now = time.monotonic()
            if quiet or now - last < PLAIN_INTERVAL_SECONDS:
                return
            last = now
            left = (total - done) / max(1e-9, rate())
            line = (
                f"{name}: {done:,} of {total:,} {unit}, {_pace(rate())}, about {left:,.0f} s left"
            )
            print(line, file=sys.stderr, flush=True)

        yield count
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)

        def advance(samples: int) -> None:
            nonlocal done
            done += samples
            bar.update(task, completed=done, description=f"{name}, {unit} {_pace(rate())}")

        yield advance


def _pace(rate: float) -> str:
    """A rate a second, a minute or an hour, as people read it."""
    for per, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if rate * seconds >= 1 or per == "h":
            break
    return f"{rate * seconds:.1f}/{per}"
