"""One rank of a training command, as a launcher would start it, with a fault if the test asks for one.

    rank.py RANK WORLD PORT FAULT [env:NAME=VALUE...] WORD...

FAULT: ``none``; ``hang:RANK:N``: that rank sleeps for ever before it reads its N-th micro-batch;
``slow:RANK:SECONDS``: it sleeps before each.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def install(fault: str, rank: int) -> None:
    kind, *values = fault.split(":")
    if kind == "none" or int(values[0]) != rank:
        return
    from megatron_dream.data.loader import MicroBatchIterator

    read = MicroBatchIterator.__next__
    count = 0

    def late(self: Any) -> Any:
        nonlocal count
        count += 1
        if kind == "slow":
            time.sleep(float(values[1]))
        elif count == int(values[1]):
            time.sleep(10_000)
        return read(self)

    MicroBatchIterator.__next__ = late  # type: ignore[method-assign]


if __name__ == "__main__":
    rank, world, port, fault, *words = sys.argv[1:]
    os.environ |= {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": world}
    while words[0].startswith("env:"):
        name, _, value = words.pop(0).removeprefix("env:").partition("=")
        os.environ[name] = value
    from megatron_dream.cli import main

    install(fault, int(rank))
    sys.exit(main(words))
