"""Parts of the local layers composed of torch's operations, for torch.compile to fuse.

On a GPU each of them is otherwise several passes over memory; compiled it is one, backward too. The
functions without it (activation.py, norm.py, rotary.py) are the reference, and faster on a CPU. Only
pointwise work and sums over the last dimension are here: matrix products and attention gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, from [..., 2F], gate first, to [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension, in fp32, rounded before the weight as Qwen2 does."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def rotate_both(query: Tensor, key: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys [S, B, heads, d] rotated by ``angles`` [S, 1, 1, d] (rotary.py: rotate)."""
    half = angles[..., : angles.shape[-1] // 2]
    cos, sin = half.cos().to(query.dtype), half.sin().to(query.dtype)

    def rotated(x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=-1)
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)

    return rotated(query), rotated(key)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One of these functions compiled, once a process; a second width makes it one for all widths."""
    return torch.compile(function)
