"""What a phase says of one problem."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Fate = Literal["dropped", "apart", "rated"]


@dataclass(frozen=True)
class Decision:
    """Of a problem that does not simply go on.

    Attributes:
        id: its name; of a record that is no problem, its place.
        fate: ``dropped``; ``apart``: nothing could be found out about it (infrastructure), so that it is
            neither kept nor blamed; ``rated``: kept, with a ``solve_rate``.
        reason: few words, the same for all that share it, to be counted by.
        detail: one line more.
        solve_rate: share of candidates that were right.
    """

    id: str
    fate: Fate
    reason: str = ""
    detail: str = ""
    solve_rate: float | None = None

    def fields(self) -> dict[str, Any]:
        """For a line of JSON."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value not in ("", None)}
