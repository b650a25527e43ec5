"""CART's weights in O(S) against the dense S x S matrix product of the published code.

    python benchmarks/cart.py [--length 4096] [--batch 8] [--repeats 9]

Baseline `dense`: build the matrix 1/2 p (1 - p)^(|n - m| - 1) in torch, multiply the batch's
context by it, keep masked positions; float32, as published code does for every batch. With
segments the matrix is masked for each row. `dense, matrix kept` builds it once, outside the
timing. Both are checked against ours. One thread; medians of alternating repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from megatron_dream.diffusion.weights import cart_weights

P = 0.1
DOCUMENT = 300  # mean tokens of a segment


def dense_matrix(length: int) -> Tensor:
    """The kernel, float32 [S, S]."""
    position = torch.arange(length)
    distance = (position[:, None] - position[None, :]).abs()
    kernel = 0.5 * P * (1.0 - P) ** (distance - 1).float()
    return kernel.fill_diagonal_(0.0)


def dense(is_masked_BS: Tensor, matrix: Tensor | None = None) -> Tensor:
    """Weights by one matrix product, [B, S]."""
    matrix = dense_matrix(is_masked_BS.shape[1]) if matrix is None else matrix
    return (~is_masked_BS).float() @ matrix * is_masked_BS


def dense_segments(is_masked_BS: Tensor, is_start_BS: Tensor) -> Tensor:
    """The same with the matrix cut to blocks, row by row."""
    matrix = dense_matrix(is_masked_BS.shape[1])
    weights = []
    for is_masked_S, is_start_S in zip(is_masked_BS, is_start_BS, strict=True):
        segment = is_start_S.cumsum(0)
        blocks = matrix * (segment[:, None] == segment[None, :])
        weights.append((~is_masked_S).float() @ blocks * is_masked_S)
    return torch.stack(weights)


def medians(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, their repeats taken in turn so that a busy machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def report(title: str, times: dict[str, float], error: float) -> None:
    """Print milliseconds and ratios to ours."""
    print(f"{title}: largest difference {error:.1e}")
    for name, value in times.items():
        print(f"  {name:<22}{value * 1e3:9.3f} ms {value / times['ours']:8.1f}x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--batch", type=int, default=8, help="rows")
    parser.add_argument("--repeats", type=int, default=9, help="timed repeats of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    is_masked = rng.random((options.batch, options.length)) < 0.5
    is_start = rng.random(is_masked.shape) < 1 / DOCUMENT
    is_start[:, 0] = True
    masked, starts = torch.from_numpy(is_masked), torch.from_numpy(is_start)
    kept = dense_matrix(options.length)
    shape = f"S = {options.length}, B = {options.batch}"
    print(f"{shape}, p = {P}, one thread, medians of {options.repeats} repeats")
    times = medians(
        {
            "ours": lambda: cart_weights(is_masked, p=P),
            "dense": lambda: dense(masked),
            "dense, matrix kept": lambda: dense(masked, kept),
        },
        options.repeats,
    )
    error = np.abs(cart_weights(is_masked, p=P) - dense(masked).numpy()).max()
    report("one segment a row", times, error)
    times = medians(
        {
            "ours": lambda: cart_weights(is_masked, is_start=is_start, p=P),
            "dense": lambda: dense_segments(masked, starts),
        },
        options.repeats,
    )
    ours = cart_weights(is_masked, is_start=is_start, p=P)
    error = np.abs(ours - dense_segments(masked, starts).numpy()).max()
    report(f"segments of {DOCUMENT} tokens on average", times, error)


if __name__ == "__main__":
    main()
