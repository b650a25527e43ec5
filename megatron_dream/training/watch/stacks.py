"""Where this process's threads are, as text for a person and as one short phrase for the summary.

Nothing here reads source files or takes a lock of Python's: a process that hangs may hang in just those.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from types import FrameType

_COLLECTIVES = "torch/distributed/distributed_c10d.py"
_WRAPPERS = "torch/distributed/c10d_logger.py"
_LOADER = ("torch/utils/data/", "megatron_dream/data/")
_OURS = ("megatron_dream/", "megatron/core/")


@dataclass(frozen=True)
class Frame:
    """A line of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.function} ({short_path(self.file)}:{self.line})"


def short_path(file: str) -> str:
    """A file's path from its package on."""
    for mark in ("site-packages/", "/megatron_dream/"):
        if mark in file:
            start = file.rindex(mark) + (len(mark) if mark == "site-packages/" else 1)
            return file[start:]
    return "/".join(file.split("/")[-2:])


def stacks() -> dict[int, list[Frame]]:
    """Frames of every thread by its number, innermost first; the main thread comes first."""
    main = threading.main_thread().ident
    mine = threading.get_ident()
    found = {thread: _frames(frame) for thread, frame in sys._current_frames().items()}
    order = sorted(found, key=lambda thread: (thread != main, thread == mine))
    return {thread: found[thread] for thread in order}


def _frames(frame: FrameType | None) -> list[Frame]:
    frames = []
    while frame is not None:
        frames.append(Frame(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name))
        frame = frame.f_back
    return frames


def as_text(found: dict[int, list[Frame]]) -> str:
    """All stacks, most recent call first."""
    main = threading.main_thread().ident
    parts = []
    for thread, frames in found.items():
        title = "main thread" if thread == main else f"thread {thread:#x}"
        lines = [f'  File "{one.file}", line {one.line}, in {one.function}' for one in frames]
        parts.append("\n".join([f"{title}, most recent call first:", *lines]))
    return "\n".join(parts) + "\n"


def where(found: dict[int, list[Frame]]) -> str:
    """What the main thread is at: ``waits in all_reduce ...``, or ``is in ...``."""
    frames = found.get(threading.main_thread().ident or 0, [])
    if not frames:
        return "has no Python stack"
    caller = next((one for one in frames if any(part in one.file for part in _OURS)), frames[0])
    for one in frames[:12]:  # the innermost calls; a queue of processes alone has six
        if one.file.endswith(_WRAPPERS):
            continue
        if one.file.endswith(_COLLECTIVES):
            return f"waits in {one.function}, called by {caller}"
        if any(part in one.file for part in _LOADER):
            return f"is in the data loader, {caller}"
    # In the first lines of the standard library's waiting there is nothing to learn.
    return f"is in {frames[0]}" + (f", called by {caller}" if caller is not frames[0] else "")
