"""Memory of this process: how much it is, and giving back what is free."""

from __future__ import annotations

import ctypes
import os


def resident_bytes() -> int:
    """Resident memory of this process, shared pages included."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def trim_heap() -> None:
    """Give freed memory back to the system, which glibc keeps otherwise; a millisecond or two.

    After a long document that is tens of megabytes, and after loading a tokenizer a hundred.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have no such call and keep less
        trim(0)
