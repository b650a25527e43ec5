"""How much of the canvas opens at each step: the linear schedule of SPEC 7, in float32.

Times and shares are computed on the CPU, so that every device opens the same numbers.
"""

from __future__ import annotations

import torch


class Schedule:
    """times = linspace(1, eps, steps + 1); step i goes from times[i] to times[i + 1]."""

    def __init__(self, steps: int, eps: float) -> None:
        """Lay out the times.

        Args:
            steps: number of steps, at least 1.
            eps: time at the end of the last step.
        """
        self.steps = steps
        self.times = torch.linspace(1, eps, steps + 1, dtype=torch.float32, device="cpu")

    def is_last(self, step: int) -> bool:
        """Whether everything still masked opens at this step."""
        return step == self.steps - 1

    def share(self, step: int) -> torch.Tensor:
        """1 - s/t as a float32 scalar: the chance that a masked position opens; 1 at the end."""
        if self.is_last(step):
            return torch.ones((), dtype=torch.float32)
        return 1 - self.times[step + 1] / self.times[step]

    def quota(self, step: int, masked_B: torch.Tensor) -> torch.Tensor:
        """How many positions of each row open: int(masked (1 - s/t)), all at the last step.

        Args:
            step: 0 to steps - 1.
            masked_B: int64 [B] on the CPU, masked positions of each row now.

        Returns:
            int64 [B].
        """
        if self.is_last(step):
            return masked_B
        return (masked_B.to(torch.float32) * self.share(step)).to(torch.int64)
