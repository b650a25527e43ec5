"""Signals become a wish to stop, which is granted at the end of a step.

The handlers do nothing but note which signal came. Processes forked from this one (savers, loader
workers before they set their own) inherit them, and so are not ended by a signal sent to the whole job:
what they do is the parent's business.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from ...data.signals import RUN_SIGNALS

NONE, STOP, INTERRUPT = 0, 1, 2  # in the order in which one overrides the other


class Signals:
    """Catches SIGUSR1, SIGTERM and SIGINT from its making to ``close``."""

    def __init__(self) -> None:
        self.wish = NONE
        self.name = ""  # of the first signal
        self.is_saving = False  # a second Ctrl-C does not break a save
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers; a run inside of another program's thread
        for number in RUN_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self._before[number] = signal.signal(number, self._note)

    def close(self) -> None:
        """Put the handlers back that were there; after a wish to stop the process ends undisturbed."""
        for number, handler in self._before.items():
            # Ignored and not noted: when Python ends it gives signals with handlers their default back.
            last = signal.SIG_IGN if self.wish else handler
            signal.signal(number, signal.SIG_DFL if last is None else last)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # in a forked process: the parent's business
        is_again = self.wish == INTERRUPT
        self.wish = max(self.wish, INTERRUPT if number == signal.SIGINT else STOP)
        self.name = self.name or signal.Signals(number).name
        if number != signal.SIGINT:
            return
        if not is_again:
            text = "\nstopping after this step, with a checkpoint; Ctrl-C again ends at once\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
        elif not self.is_saving:
            raise KeyboardInterrupt
