"""The signals that a run answers itself, and how its loader's and savers' processes are kept out of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

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
        # multiprocessing unblocks TERM and INT when it starts its tracker, so that comes first.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, RUN_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
