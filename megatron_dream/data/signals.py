"""The signals that a run answers itself, and how the loader's processes are kept out of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

RUN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def ignore_run_signals() -> None:
    """In a worker: they are the training process's to answer; workers end when it says so."""
    for number in RUN_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RUN_SIGNALS)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold the run's signals back while workers start, until they ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, RUN_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
