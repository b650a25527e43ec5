"""Whether weights are the same to the last bit: a number that every layout of equal replicas agrees on."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ..checkpoint.state import unwrap
from ..parallel import Ranks

_VIEWS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_MODULUS = 1 << 61


def weights_fingerprint(model: list[Any], ranks: Ranks) -> str:
    """Of all weights, as hexadecimal digits, the same on every rank; all ranks call this.

    Bits are added up with factors that depend on a weight's place, so that no exchange of two goes unseen.

    Args:
        model: chunks of this process.
        ranks: its place.
    """
    total = 0
    if ranks.dp_rank == 0:
        for chunk in model:
            for number, (_, values) in enumerate(sorted(unwrap(chunk).named_parameters())):
                total += (number + 1) * _bits(values.detach())
    parts: list[tuple[int, int]] = [(0, 0)] * ranks.world_size
    dist.all_gather_object(parts, (ranks.rank + 1, total))
    return f"{sum(place * part for place, part in parts) % _MODULUS:016x}"


def _bits(values: torch.Tensor) -> int:
    bits = values.contiguous().view(-1).view(_VIEWS[values.element_size()]).long()
    places = torch.arange(1, bits.numel() + 1, device=bits.device)
    return int((bits * places).sum())
