"""Progress of preprocessing: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL_SECONDS = 30.0


class PreprocessProgress:
    """Counts documents, tokens and bytes; a context.

    Attributes:
        documents: seen so far.
        tokens: written so far.
    """

    def __init__(
        self, total_bytes: int, stream: TextIO | None = None, *, done_bytes: int = 0
    ) -> None:
        """Report to ``stream`` (standard error) on the way to ``total_bytes`` of input.

        ``done_bytes`` of them were read by an earlier run, and say nothing about this one's speed.
        """
        self.documents = self.tokens = 0
        self._bytes = self._done_before = done_bytes
        self._total = total_bytes
        self._stream = stream or sys.stderr
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if self._stream.isatty():
            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
            console = Console(file=self._stream)
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self._task = self._bar.add_task("", total=max(1, total_bytes))

    def __enter__(self) -> PreprocessProgress:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start, never 0."""
        return max(1e-9, time.monotonic() - self._started)

    def update(self, documents: int, tokens: int, num_bytes: int) -> None:
        """Add what was done since the last call, and show it."""
        self.documents += documents
        self.tokens += tokens
        self._bytes += num_bytes
        if self._bar is not None:
            self._bar.update(self._task, completed=self._bytes, description=self.rates())
        elif time.monotonic() - self._last_line >= PLAIN_INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            print(self._plain_line(), file=self._stream, flush=True)

    def rates(self) -> str:
        """Documents and tokens a second."""
        return f"{self.documents / self.seconds:,.0f} documents/s, {self.tokens / self.seconds:,.0f} tokens/s"

    def _plain_line(self) -> str:
        share = min(1.0, self._bytes / max(1, self._total))
        now = self._bytes - self._done_before
        left = self.seconds * (self._total - self._bytes) / now if now else float("inf")
        return (
            f"{share:.1%} of {self._total / 1e6:,.1f} MB, {self.documents:,} documents, "
            f"{self.tokens:,} tokens, {self.rates()}, about {left:,.0f} s left"
        )


@contextmanager
def unit_progress(name: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Count units of work; yields what is called after each.

    Args:
        name: of the work.
        total: units.
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty():
        done, started, last = 0, time.monotonic(), time.monotonic()

        def count() -> None:
            nonlocal done, last
            done += 1
            now = time.monotonic()
            if not quiet and now - last >= PLAIN_INTERVAL_SECONDS:
                last = now
                left = (now - started) / done * (total - done)
                print(f"{name}: {done} of {total}, {left:,.0f} s left", file=sys.stderr, flush=True)

        yield count
        return
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    console = Console(file=sys.stderr)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)
