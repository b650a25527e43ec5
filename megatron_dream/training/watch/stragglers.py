"""Which ranks are slow by themselves, apart from waiting for others.

Two measures, both without the waiting that hides the slow one (every step takes all ranks alike long):

- **own**: from the beginning of a step's computation to this rank's arrival at the first exchange between
  data-parallel ranks (``finalize_model_grads``), on the device's own clock: CUDA events on a GPU. It holds
  everything that the rank does itself: reading data, forward, backward. Ranks of one replica wait for one
  another inside of it (tensor and pipeline parallelism), so it names replicas; it is compared among ranks of
  the same pipeline stage.
- **probe**: a fixed matrix product on the device, the best of three, with nobody to wait for. It names a slow
  device, inside of a replica too, and knows nothing of slow disks or networks.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ... import device
from ...parallel import Ranks

_COLUMNS = 4  # stage, own, data, probe


@dataclass(frozen=True)
class Measured:
    """What one rank gathered."""

    rank: int
    stage: int
    own: float  # seconds a step
    data: float  # of them waiting for data
    probe: float  # seconds


@dataclass(frozen=True)
class Straggler:
    """A rank that is slower than the others."""

    rank: int
    host: str
    measure: str  # own or probe
    seconds: float
    median: float
    data_seconds: float

    def __str__(self) -> str:
        what = "to its own work" if self.measure == "own" else "to a fixed matrix product"
        data = (
            f" ({self.data_seconds:.3g} s of it waiting for data)" if self.measure == "own" else ""
        )
        return (
            f"rank {self.rank} on {self.host} takes {self.seconds:.3g} s {what}{data}, "
            f"{self.seconds / self.median:.1f} times the median"
        )


class Stragglers:
    """Measures this rank, and compares all of them every ``interval`` steps.

    Args:
        interval: steps; 0: never.
        factor: of the median from which on a rank is slow.
        ranks: this process's place.
        hosts: of all ranks.
    """

    def __init__(self, interval: int, factor: float, ranks: Ranks, hosts: Sequence[str]) -> None:
        self.interval = interval if ranks.world_size > 1 else 0
        self.factor, self.ranks, self.hosts = factor, ranks, hosts
        self.data_seconds = 0.0
        self._began: device.Moment | None = None
        self._spans: list[tuple[device.Moment, device.Moment]] = []
        self._own = 0.0
        self._steps = 0

    def begin(self) -> None:
        """Computation of a step begins."""
        if self.interval:
            self._began = device.Moment()

    def arrive(self) -> None:
        """This rank is at the first exchange of the step."""
        if self._began is not None:
            self._spans.append((self._began, device.Moment()))
            self._began = None

    def step(self, step: int) -> list[Straggler]:
        """After a step that the device has finished; at its interval all ranks call this together."""
        self._own += sum(end.seconds_since(begin) for begin, end in self._spans)
        self._steps += bool(self._spans)
        self._spans = []
        if not self.interval or step % self.interval:
            return []
        steps = max(1, self._steps)
        mine = (self.ranks.pp_rank, self._own / steps, self.data_seconds / steps, device.probe())
        self._own, self.data_seconds, self._steps = 0.0, 0.0, 0
        found = slow_ranks(_gather(mine), self.factor, self.hosts)
        return found if self.ranks.reports else []


def _gather(mine: tuple[float, ...]) -> list[Measured]:
    here = device.current_device()
    own = torch.tensor(mine, dtype=torch.float32, device=here)
    table = torch.empty(dist.get_world_size() * _COLUMNS, dtype=torch.float32, device=here)
    dist.all_gather_into_tensor(table, own)
    rows: list[Any] = table.view(-1, _COLUMNS).tolist()
    return [Measured(rank, int(row[0]), *row[1:]) for rank, row in enumerate(rows)]


def slow_ranks(
    measured: Sequence[Measured], factor: float, hosts: Sequence[str]
) -> list[Straggler]:
    """Ranks above ``factor`` times the median, slowest first; one entry a rank."""
    found: dict[int, Straggler] = {}
    for stage in {one.stage for one in measured}:
        peers = [one for one in measured if one.stage == stage]
        _compare(found, peers, "own", factor, hosts)
    _compare(found, measured, "probe", factor, hosts)
    return sorted(found.values(), key=lambda one: one.median / max(one.seconds, 1e-12))


def _compare(
    found: dict[int, Straggler],
    peers: Sequence[Measured],
    measure: str,
    factor: float,
    hosts: Sequence[str],
) -> None:
    # The lower median: of two ranks the faster one, with which the slower is to be compared.
    median = statistics.median_low([getattr(one, measure) for one in peers])
    for one in peers:
        seconds = getattr(one, measure)
        if median > 0 and seconds > factor * median:
            found.setdefault(
                one.rank, Straggler(one.rank, hosts[one.rank], measure, seconds, median, one.data)
            )
