"""A stream of random numbers for every row, on the CPU.

A row draws from its own generator, so its tokens depend neither on the batch it is in nor on the
device, and the global generator is never touched. Sample j of prompt r is seeded from (seed, r, j):
more samples of a prompt leave the earlier ones as they were.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

import torch


def fresh_seed() -> int:
    """A seed from the operating system, for when none is given."""
    return secrets.randbits(63)


class RowRandom:
    """One generator a row."""

    def __init__(self, seeds: Sequence[int], keys: Sequence[tuple[int, int]]) -> None:
        """Seed the generators.

        Args:
            seeds: one of each row; the same for all rows of a run, unless requests are batched.
            keys: (prompt number, sample number) of each row.
        """
        self._generators = []
        for seed, (prompt, sample) in zip(seeds, keys, strict=True):
            digest = hashlib.sha256(f"{seed}/{prompt}/{sample}".encode()).digest()
            generator = torch.Generator(device="cpu")
            generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            self._generators.append(generator)

    def uniforms(self, counts_B: Sequence[int], device: torch.device) -> torch.Tensor:
        """``counts_B[b]`` numbers in [0, 1) from row b's generator, one row after the other.

        Returns:
            float64 [sum of counts] (float32 where the device has no float64).
        """
        parts = [
            torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")
            for count, generator in zip(counts_B, self._generators, strict=True)
            if count
        ]
        flat = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
        return flat.float().to(device) if device.type == "mps" else flat.to(device)
