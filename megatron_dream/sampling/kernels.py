"""Matrix products on a CPU.

PyTorch gives fp32 products to MKL, which on processors of other makers than Intel leaves half of their
vector width unused. oneDNN, which lies in PyTorch too, does not: on an AMD EPYC with AVX-512 2.1 times as
fast, from 8 rows on, with the weights as they are (docs/log.md). It has no derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

MIN_PRODUCTS = 1 << 20  # below, calling oneDNN costs more than it saves
_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``torch.nn.functional.linear``, by oneDNN where no derivative is wanted; equal up to rounding.

    ``torch.backends.mkldnn.enabled = False`` leaves it to PyTorch.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O].
    """
    wants_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if wants_gradient or not is_served(x, weight):
        return nn.functional.linear(x, weight, bias)
    product: torch.Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return product


def is_served(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN takes this product: of fp32 on a CPU, and large enough to be worth it."""
    return (
        _ONEDNN is not None
        and x.is_cpu
        and weight.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and type(weight) in (torch.Tensor, nn.Parameter)  # not one that is quantized or distributed
        and x.numel() * weight.shape[0] >= MIN_PRODUCTS
        and torch.backends.mkldnn.enabled
        and not _autocasts()
    )


def _autocasts() -> bool:
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # torch before 2.4
        return torch.is_autocast_cpu_enabled()


class Linear(nn.Linear):
    """``torch.nn.Linear`` on ``linear``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From [..., I] to [..., O]."""
        return linear(x, self.weight, self.bias)
