"""Phase balance: shares of the kinds, made by leaving out some of those that there are too many of."""

from __future__ import annotations

import collections
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...errors import ConfigError, DataError
from ..problems import KINDS
from .decision import Decision
from .phase import Phase, Problems


def shares_of(text: str) -> dict[str, float]:
    """``function=1,stdin=1,output=0.5`` as numbers.

    Raises:
        ConfigError: a kind that is none, a number that is none, or no number over 0.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        kind, _, number = part.strip().partition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if kind not in KINDS or kind in shares or not 0 <= share < math.inf:
            raise ConfigError(
                f"--balance {text}: {part.strip()!r} is no share; write each of {', '.join(KINDS)} at "
                "most once, as function=1,stdin=1,output=1."
            )
        shares[kind] = share
    if not any(shares.values()):
        raise ConfigError(f"--balance {text}: give some kind a share over 0.")
    return shares


def targets(
    counts: Mapping[str, int], shares: Mapping[str, float], most: int | None = None
) -> dict[str, int]:
    """How many of each kind to keep: as many as there can be in these shares.

    Args:
        counts: of what there is.
        shares: wanted, by kind, in any unit; empty: as there are.
        most: of all kinds together.
    """
    wanted: Mapping[str, float] = shares or counts
    whole = sum(wanted.values())
    scale = min(
        (counts.get(kind, 0) / share for kind, share in wanted.items() if share), default=0.0
    )
    if most is not None:
        scale = min(scale, most / whole) if whole else 0.0
    return {kind: math.floor(scale * share + 1e-9) for kind, share in wanted.items()}


@dataclass(frozen=True)
class Balance(Phase):
    """Keeps ``targets`` of each kind: those with the smallest digest of their id, the same on every run.

    Attributes:
        shares: by kind; empty: no balance.
        most: problems at all; None: no limit.
    """

    name: ClassVar[str] = "balance"

    shares: Mapping[str, float]
    most: int | None = None

    def identity(self) -> dict[str, Any]:
        """See the base class."""
        return {"shares": dict(self.shares), "most": self.most}

    def decide(self, problems: Problems, folder: Path, notes: list[str]) -> Iterator[Decision]:
        """See the base class."""
        by_kind: dict[str, list[str]] = collections.defaultdict(list)
        for problem in problems():
            by_kind[problem.kind].append(problem.id)
        counts = {kind: len(ids) for kind, ids in by_kind.items()}
        for kind, share in self.shares.items():
            if share and not counts.get(kind):
                raise DataError(
                    f"--balance asks for {kind} problems and none is left; leave {kind} out or add inputs."
                )
        kept = targets(counts, self.shares, self.most)
        for kind, ids in by_kind.items():
            for name in sorted(ids, key=_order)[kept.get(kind, 0) :]:
                yield Decision(name, "dropped", f"more {kind} problems than wanted")


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
