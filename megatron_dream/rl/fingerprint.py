"""Whether weights are the same to the last bit: a few digits that all ranks agree on."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed as dist

from ..checkpoint.state import unwrap
from ..parallel import Ranks

_VIEWS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_PART = 1 << 22  # elements looked at together


def weights_fingerprint(model: list[Any], ranks: Ranks) -> str:
    """Of all weights of one replica, as hexadecimal digits, the same on every rank; all ranks call this.

    Replicas are equal, so the number of them does not matter; another TP or PP gives another fingerprint.

    Args:
        model: chunks of this process.
        ranks: its place.
    """
    digest = hashlib.sha256()
    if ranks.dp_rank == 0:
        for chunk in model:
            for name, values in unwrap(chunk).named_parameters():
                digest.update(f"{name} {_bits(values.detach())}".encode())
    mine = (ranks.pp_rank, ranks.tp_rank, digest.hexdigest()) if ranks.dp_rank == 0 else None
    parts: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(parts, mine)
    whole = sorted(part for part in parts if part is not None)
    return hashlib.sha256(repr(whole).encode()).hexdigest()[:16]


def _bits(values: torch.Tensor) -> int:
    """Sum of all bits, each element times a number that depends on its place, modulo 2**64."""
    bits = values.contiguous().view(-1).view(_VIEWS[values.element_size()])
    total = 0
    for first in range(0, bits.numel(), _PART):
        part = bits[first : first + _PART].long()
        places = torch.arange(first, first + part.numel(), device=part.device)
        total += int((part * (2 * places + 1)).sum())
    return total % (1 << 64)
