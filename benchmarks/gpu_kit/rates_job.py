"""What the device reaches by itself: products, attention, memory, launches, sums between devices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from megatron_dream import device, parallel
from megatron_dream.config.schema import ParallelConfig
from megatron_dream.sampling.kernels import linear

# Products [T, K] x [K, N]: squares, and those of the 7B's layers at 8,192 rows.
_SHAPES = {
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (8192, 3584, 37888), (8192, 18944, 3584),
             (8192, 3584, 4608), (8192, 3584, 3584)),
    "cpu": ((512, 512, 512), (512, 256, 1408)),
}  # fmt: skip
_ATTENTION = {"cuda": ((8, 28, 2048, 128), (4, 28, 4096, 128)), "cpu": ((2, 4, 256, 64),)}
_COPIED = {"cuda": 1 << 30, "cpu": 1 << 26}  # bytes
_E4M3_MAX = 448.0


def fastest(work: Callable[[], Any], seconds: float) -> float:
    """Seconds of one call: the least of five rounds, each long enough to be timed."""
    work()
    device.synchronize()
    began = time.perf_counter()
    work()
    device.synchronize()
    count = max(1, int(seconds / 5 / max(time.perf_counter() - began, 1e-7)))
    found = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            work()
        device.synchronize()
        found.append((time.perf_counter() - began) / count)
    return min(found)


def facts() -> dict[str, Any]:
    """The device as torch sees it; in a process of its own, since it takes memory."""
    if device.device_type() == "cpu":
        import os

        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return {"type": "cpu", "name": "CPU", "count": 1, "memory_bytes": memory}
    properties = torch.cuda.get_device_properties(0)
    return {
        "type": "cuda",
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "memory_bytes": properties.total_memory,
        "capability": list(torch.cuda.get_device_capability()),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "has_transformer_engine": device.has_transformer_engine(),
    }


def rates(seconds: float = 1.0) -> dict[str, Any]:
    """Rates of this process's device; ``seconds`` for each figure."""
    ranks = parallel.start(ParallelConfig())
    torch.manual_seed(0)
    with torch.no_grad():
        return _rates(seconds, ranks.world_size)


def _rates(seconds: float, world_size: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "products": {kind: _products(kind, seconds) for kind in ("bf16", "fp32", "fp8")},
        "attention": [_attention(shape, seconds) for shape in _ATTENTION[device.device_type()]],
        "memory_bytes_per_second": _memory(seconds),
        "launch_seconds": _launch(seconds),
        "host_copy_bytes_per_second": _host_copy(seconds),
        "sum": _sum(world_size),
    }
    found["best"] = {
        kind: max((row["flops_per_second"] for row in rows), default=None)
        for kind, rows in found["products"].items()
    }
    return found


def _products(kind: str, seconds: float) -> list[dict[str, Any]]:
    """Rates of products in one type; none where the device has no such products."""
    rows = []
    for t, k, n in _SHAPES[device.device_type()]:
        work = _fp8_product(t, k, n) if kind == "fp8" else _product(kind, t, k, n)
        if work is None:
            return []
        one = fastest(work, seconds)
        rows.append({"shape": [t, k, n], "seconds": one, "flops_per_second": 2.0 * t * k * n / one})
    return rows


def _product(kind: str, t: int, k: int, n: int) -> Callable[[], Any]:
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    left = torch.randn(t, k, device=device.current_device()).to(dtype)
    right = torch.randn(n, k, device=device.current_device()).to(dtype)
    return lambda: linear(left, right)  # the product that the layers call


def _fp8_product(t: int, k: int, n: int) -> Callable[[], Any] | None:
    if device.device_type() == "cpu" or torch.cuda.get_device_capability() < (8, 9):
        return None
    here = device.current_device()
    left = torch.randn(t, k, device=here).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn)
    right = torch.randn(n, k, device=here).to(torch.float8_e4m3fn).t()  # column-major, as asked for
    one = torch.ones((), device=here)
    return lambda: torch._scaled_mm(
        left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _attention(shape: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Forward and backward rate of torch's attention in bf16, both directions, as 4 and 10 b a s^2 d."""
    b, heads, s, width = shape
    here, dtype = device.current_device(), torch.bfloat16
    q, k, v = (torch.randn(shape, device=here, dtype=dtype, requires_grad=True) for _ in range(3))
    run = torch.nn.functional.scaled_dot_product_attention
    forward = fastest(lambda: run(q, k, v), seconds)
    upstream = torch.randn(shape, device=here, dtype=dtype)

    def both() -> None:
        with torch.enable_grad():
            torch.autograd.grad(run(q, k, v), (q, k, v), upstream)

    backward = max(fastest(both, seconds) - forward, 1e-9)
    flops = 4.0 * b * heads * s * s * width
    return {
        "shape": list(shape),
        "forward_flops_per_second": flops / forward,
        "backward_flops_per_second": 2.5 * flops / backward,
    }


def _memory(seconds: float) -> float:
    """Bytes a second of adding two arrays into a third, bf16: two reads, one write."""
    count = _COPIED[device.device_type()] // 2
    left, right = (
        torch.ones(count, device=device.current_device(), dtype=torch.bfloat16) for _ in "ab"
    )
    out = torch.empty_like(left)
    return 3.0 * 2 * count / fastest(lambda: torch.add(left, right, out=out), seconds)


def _launch(seconds: float) -> float:
    """Seconds of the smallest operation, one after another."""
    small = torch.ones(16, device=device.current_device())
    return fastest(lambda: small.add_(1.0), seconds)


def _host_copy(seconds: float) -> float | None:
    """Bytes a second from pinned host memory; None on a CPU."""
    if device.device_type() == "cpu":
        return None
    host = torch.empty(_COPIED["cuda"] // 4, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device=device.current_device())
    return host.numel() / fastest(lambda: there.copy_(host, non_blocking=True), seconds)


def _sum(world_size: int) -> dict[str, Any] | None:
    """Bus bandwidth of an all-reduce of 256 MB among all; None for one process."""
    if world_size == 1:
        return None
    values = torch.ones(1 << 26, device=device.current_device())
    one = fastest(lambda: torch.distributed.all_reduce(values), 0.0)
    moved = 2.0 * (world_size - 1) / world_size * values.numel() * 4
    return {"processes": world_size, "seconds": one, "bus_bytes_per_second": moved / one}
