"""In which order the tokens appeared: a compact log of events and what can be read off it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch


@dataclass
class History:
    """Every change of the canvas, in order, on the CPU.

    Attributes:
        start_BS: int64, the canvas before the loop (after the tokens hook's first call).
    """

    start_BS: torch.Tensor
    _parts: list[tuple[torch.Tensor, ...]] = field(default_factory=list)

    def record(
        self,
        step: int,
        changed_BS: torch.Tensor,
        x_BS: torch.Tensor,
        confidence_BS: torch.Tensor | None = None,
        probability_BS: torch.Tensor | None = None,
    ) -> None:
        """Log the positions of ``changed_BS``, which hold ``x_BS`` after ``step``."""
        rows, positions = changed_BS.nonzero(as_tuple=True)
        if not len(rows):
            return
        nothing = torch.full((len(rows),), float("nan"))
        self._parts.append(
            (
                torch.full((len(rows),), step, dtype=torch.int32),
                rows.to("cpu", torch.int32),
                positions.to("cpu", torch.int32),
                x_BS[changed_BS].to("cpu"),
                nothing if confidence_BS is None else confidence_BS[changed_BS].cpu(),
                nothing if probability_BS is None else probability_BS[changed_BS].cpu(),
            )
        )

    def _column(self, index: int, dtype: torch.dtype) -> torch.Tensor:
        if not self._parts:
            return torch.zeros(0, dtype=dtype)
        return torch.cat([part[index] for part in self._parts])

    @property
    def steps(self) -> torch.Tensor:
        """int32 [E]: when each event happened."""
        return self._column(0, torch.int32)

    @property
    def rows(self) -> torch.Tensor:
        """int32 [E]."""
        return self._column(1, torch.int32)

    @property
    def positions(self) -> torch.Tensor:
        """int32 [E]."""
        return self._column(2, torch.int32)

    @property
    def tokens(self) -> torch.Tensor:
        """int64 [E]; the mask token where a position was masked again."""
        return self._column(3, torch.int64)

    @property
    def confidences(self) -> torch.Tensor:
        """float32 [E]: the algorithm's confidence; NaN where no model chose the token."""
        return self._column(4, torch.float32)

    @property
    def probabilities(self) -> torch.Tensor:
        """float32 [E]: the token's probability; NaN where no model chose it."""
        return self._column(5, torch.float32)

    @property
    def opened_step(self) -> torch.Tensor:
        """int32 [B, S]: the step at which each position got the token it ends with; -1: given."""
        return self._last(0, torch.full(self.start_BS.shape, -1, dtype=torch.int32))

    @property
    def confidence(self) -> torch.Tensor:
        """float32 [B, S]: the algorithm's confidence at that step; NaN where there is none."""
        return self._last(4, torch.full(self.start_BS.shape, float("nan")))

    @property
    def probability(self) -> torch.Tensor:
        """float32 [B, S]: the token's probability at that step; NaN where there is none."""
        return self._last(5, torch.full(self.start_BS.shape, float("nan")))

    def _last(self, index: int, result_BS: torch.Tensor) -> torch.Tensor:
        # A part touches a position once, so only the order of the parts matters.
        for part in self._parts:
            result_BS[part[1].long(), part[2].long()] = part[index].to(result_BS.dtype)
        return result_BS

    def frames(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (step, canvas int64 [B, S]) after each step that changed something, -1 first."""
        x_BS = self.start_BS.clone()
        step = -1
        for part in self._parts:
            if int(part[0][0]) != step:
                yield step, x_BS.clone()
                step = int(part[0][0])
            x_BS[part[1].long(), part[2].long()] = part[3]
        yield step, x_BS
