"""What ranks tell rank 0 beside the collectives that are tested: a store over TCP, with time limits."""

from __future__ import annotations

import datetime
import json
import os
import time
from typing import Any

import torch.distributed as dist

from ..launcher import Launch, rendezvous


class Exchange:
    """Rank 0 hears the others, and may tell them one thing.

    Args:
        launch: this process's.
        seconds: that the whole check may take.
    """

    def __init__(self, launch: Launch, seconds: float) -> None:
        self.launch = launch
        self.deadline = time.monotonic() + seconds
        address, port = rendezvous()
        has_server = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self.store = dist.TCPStore(
            address,
            port,
            is_master=launch.rank == 0 and not has_server,
            timeout=datetime.timedelta(seconds=seconds),
            wait_for_workers=False,  # it would not say who is missing
        )

    def tell(self, what: str, value: Any) -> None:
        """Leave a JSON value for rank 0."""
        self.store.set(f"{what}/{self.launch.rank}", json.dumps(value))

    def heard(self, what: str) -> dict[int, Any]:
        """On rank 0: what each rank told, until all have or the time is over; silent ones are left out."""
        values = {}
        for rank in range(self.launch.world_size):
            key = f"{what}/{rank}"
            left = max(0.2, self.deadline - time.monotonic())
            try:
                self.store.wait([key], datetime.timedelta(seconds=left))
            except dist.DistStoreError:
                continue
            values[rank] = json.loads(self.store.get(key))
        return values

    def announce(self, what: str, value: str) -> None:
        """On rank 0: say it to all."""
        self.store.set(what, value)

    def announced(self, what: str) -> str:
        """What rank 0 said, once it has."""
        return self.store.get(what).decode()
