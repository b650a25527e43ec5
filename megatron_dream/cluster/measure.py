"""Short measurements of one process and of groups of processes; each ends within its time or fails."""

from __future__ import annotations

import datetime
import hashlib
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from .. import device

_REPEATS = 5
# Side of the matrices, products a measurement, elements of the sums: some milliseconds each.
_SIZES = {"cuda": (8192, 20, 64 << 20), "cpu": (512, 2, 1 << 20)}


def product() -> tuple[float, str]:
    """Seconds of a matrix product, and a digest of its result.

    The numbers are small integers, whose products and sums are exact in any order of additions: equal
    devices give equal digests, and one that computes wrongly does not.
    """
    size, count, _ = _SIZES[device.device_type()]
    kind = torch.bfloat16 if device.device_type() == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(1)
    left, right = (
        torch.randint(-2, 3, (size, size), generator=generator).to(device.current_device(), kind)
        for _ in range(2)
    )
    result = left @ right  # warms up
    device.synchronize()
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        for _ in range(count):
            result = left @ right
        device.synchronize()
        seconds.append((time.perf_counter() - started) / count)
    digest = hashlib.sha256(result.float().cpu().numpy().tobytes()).hexdigest()[:16]
    return statistics.median(seconds), digest


def product_flops() -> float:
    """Floating-point operations of ``product``'s matrix product."""
    return 2.0 * _SIZES[device.device_type()][0] ** 3


def sum_bytes() -> int:
    """Bytes that each process gives to ``summing``."""
    return 4 * _SIZES[device.device_type()][2]


def group_of(ranks: list[int], seconds: float) -> dist.ProcessGroup:
    """A process group of some ranks; only they call this."""
    # The backend's own time-out ends the process: ours, in summing, comes first.
    patience = datetime.timedelta(seconds=2 * seconds)
    return dist.new_group(ranks, timeout=patience, use_local_synchronization=True)


def summing(group: dist.ProcessGroup, seconds: float) -> float:
    """Seconds of an all-reduce.

    Raises:
        TimeoutError: it was not done within ``seconds``.
        RuntimeError: a sum is wrong, or the backend failed.
    """
    elements = _SIZES[device.device_type()][2]
    measured = []
    for _ in range(_REPEATS + 1):  # the first one connects
        ones = torch.ones(elements, device=device.current_device())
        device.synchronize()
        started = time.perf_counter()
        work = dist.all_reduce(ones, group=group, async_op=True)
        _await(lambda work=work: work.is_completed(), seconds)  # type: ignore[misc]
        work.wait()
        device.synchronize()
        measured.append(time.perf_counter() - started)
        if not bool((ones == dist.get_world_size(group)).all()):
            raise RuntimeError("a sum of ones over the group is wrong")
    return statistics.median(measured[1:])


def _await(is_done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not done within {seconds:.0f} s")
        time.sleep(0)
