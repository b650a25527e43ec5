"""What a start knows of itself: when it began, its name, and the hosts of its ranks."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path

import torch.distributed as dist

from ...parallel import Ranks


def process_began() -> float:
    """Epoch seconds at which this process was started; now, where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time()
    return time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def meet(ranks: Ranks) -> tuple[str, list[str]]:
    """A word that names this start on all ranks, and the ranks' hosts on those that need them.

    By the store that the process group was made with: no collective yet, which might hang unwatched.
    """
    store = dist.distributed_c10d._get_default_store()
    turn = store.add(f"watch/turn/{ranks.rank}", 1)  # the store may outlive a run (tests)
    store.set(f"watch/{turn}/host/{ranks.rank}", socket.gethostname())
    if ranks.rank == 0:
        store.set(f"watch/{turn}/launch", uuid.uuid4().hex[:12])
    launch = store.get(f"watch/{turn}/launch").decode()
    hosts = ["?"] * ranks.world_size
    if ranks.rank == 0 or ranks.reports:
        hosts = [
            store.get(f"watch/{turn}/host/{rank}").decode() for rank in range(ranks.world_size)
        ]
    return launch, hosts
