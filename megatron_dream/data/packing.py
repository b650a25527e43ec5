"""Rows of a micro-batch as one sequence of segments (THD), for attention that takes lengths, not masks.

Layout only, like the dead padding of batch.py: nothing is drawn, no token changes, and what a step's loss
adds up is the same. Segments follow one another in the order of the rows; dead padding is left out, and
what fills the sequence up to its multiple is one dead segment at the end.

Under context parallelism every segment is cut zigzag by itself: into 2 x CP chunks, of which rank r has
those numbered r and 2 CP - 1 - r. So it is padded to a multiple of 2 x CP tokens; what attention may see
is told by ``cu_seqlens`` (real tokens), where it lies by ``cu_seqlens_padded``.

Shapes: B rows of S tokens, T tokens packed, L = T / CP of them on this rank, N segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.rows import DEAD, SEGMENT_START


@dataclass(frozen=True)
class Packing:
    """How rows become one sequence.

    Attributes:
        unit: what T is a multiple of, itself a multiple of 2 x CP where CP > 1.
        is_fixed: T is B x S, which one width of all micro-batches needs; dead padding stays then, a segment
            a row. Under context parallelism T follows the segments whatever is asked.
    """

    unit: int = 1
    is_fixed: bool = False


@dataclass(frozen=True)
class _Places:
    """Where tokens go, int64 on the CPU."""

    lengths_N: Tensor  # real tokens
    padded_N: Tensor  # with what CP adds
    source_T: Tensor  # index into B x S; -1: filled
    within_T: Tensor  # place in the segment
    local_L: Tensor  # indices into T of this rank's tokens


def pack_rows(
    parts: dict[str, Tensor],
    packing: Packing,
    *,
    pad_id: int,
    cp_rank: int = 0,
    cp_size: int = 1,
) -> dict[str, Tensor]:
    """A micro-batch's [B, S] tensors as [1, L], and what describes the segments.

    Args:
        parts: of a micro-batch, whole rows; ``flags`` is always among them.
        packing: how.
        pad_id: token of filled places.
        cp_rank: in the context-parallel group.
        cp_size: of that group.

    Returns:
        The tensors by name; ``flags_full`` [1, T]; ``cu_seqlens`` and ``cu_seqlens_padded`` int32 [N + 1];
        ``longest`` int64 [] on the CPU, the longest padded segment; ``packed_rows`` int64 [L], each token's
        row; ``positions`` int64 [L], each token's place in its segment.
    """
    flags_BS = parts["flags"]
    rows, width = flags_BS.shape
    places = _places(flags_BS.cpu().view(-1), packing, cp_rank, cp_size)
    device = flags_BS.device
    source_T = places.source_T.to(device, non_blocking=True)
    local_L = places.local_L.to(device, non_blocking=True)
    found = {}
    for name, fill in (("tokens", pad_id), ("labels", 0), ("loss_weight", 0), ("flags", DEAD)):
        if name in parts:
            found[name] = _moved(parts[name], source_T, fill)
    within_T = places.within_T.to(device, non_blocking=True)
    found["flags"] |= (within_T == 0).to(torch.uint8) * SEGMENT_START
    packed = {name: values[local_L].unsqueeze(0) for name, values in found.items()}
    return packed | {
        "flags_full": found["flags"].unsqueeze(0),
        "cu_seqlens": _cumulative(places.lengths_N).to(device, non_blocking=True),
        "cu_seqlens_padded": _cumulative(places.padded_N).to(device, non_blocking=True),
        "longest": places.padded_N.max(),
        "packed_rows": (source_T.clamp(min=0) // width)[local_L],
        "positions": within_T[local_L],
    }


def _moved(values_BS: Tensor, source_T: Tensor, fill: int) -> Tensor:
    moved = values_BS.reshape(-1)[source_T.clamp(min=0)]
    return moved.masked_fill(source_T < 0, fill)


def _cumulative(lengths_N: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths_N.cumsum(0), (1, 0)).to(torch.int32)


def _places(flags: Tensor, packing: Packing, cp_rank: int, cp_size: int) -> _Places:
    """Places of the segments that ``flags`` [B x S] tell, and of the filling behind them."""
    starts_N = torch.nonzero(flags & SEGMENT_START).view(-1)
    lengths_N = torch.diff(starts_N, append=torch.tensor([flags.numel()]))
    is_fixed = packing.is_fixed and cp_size == 1
    if not is_fixed:
        is_real_N = (flags[starts_N] & DEAD) == 0
        starts_N, lengths_N = starts_N[is_real_N], lengths_N[is_real_N]
    chunks = 2 * cp_size if cp_size > 1 else 1
    padded_N = -(-lengths_N // chunks) * chunks
    total = int(padded_N.sum())
    # Transformer Engine looks for padding in front of the last segment only, and leaves tokens behind the
    # last one undefined: behind a padded segment there is always another.
    needed = total + chunks if len(padded_N) and padded_N[-1] != lengths_N[-1] else max(total, 1)
    length = total if is_fixed else -(-needed // packing.unit) * packing.unit
    if length > total:
        tail = torch.tensor([length - total])
        lengths_N, padded_N = torch.cat((lengths_N, tail)), torch.cat((padded_N, tail))
        starts_N = torch.cat((starts_N, torch.tensor([-1])))
    first_T = torch.repeat_interleave(padded_N.cumsum(0) - padded_N, padded_N)
    within_T = torch.arange(length) - first_T
    start_T, length_T = (torch.repeat_interleave(x, padded_N) for x in (starts_N, lengths_N))
    is_real_T = (start_T >= 0) & (within_T < length_T)
    chunk_T = within_T // torch.repeat_interleave(padded_N // chunks, padded_N)
    is_local_T = (chunk_T == cp_rank) | (chunk_T == chunks - 1 - cp_rank)
    return _Places(
        lengths_N,
        padded_N,
        torch.where(is_real_T, start_T + within_T, -1),
        within_T,
        torch.nonzero(is_local_T).view(-1),
    )
