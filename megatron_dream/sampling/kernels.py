"""Matrix products on a CPU.

PyTorch gives fp32 products to MKL, which on processors of other makers than Intel leaves half of their
vector width unused. oneDNN, which lies in PyTorch too, does not: twice as fast on an AMD EPYC with
AVX-512 (docs/log.md), with the weights as they are. The operator has no derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

MAX_COMPILED_AHEAD = 1 << 30  # multiplications
MIN_PRODUCTS = 1 << 22  # multiplications; below, there is little to gain
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
    x_RI = _padded(x.reshape(-1, x.shape[-1]))
    product_RO: torch.Tensor = _ONEDNN(x_RI, weight, bias, "none", [], "")
    return product_RO[: x.numel() // x.shape[-1]].view(*x.shape[:-1], -1)


def summed_outer(a_RO: torch.Tensor, b_RI: torch.Tensor) -> torch.Tensor:
    """a^T b [O, I], the weight's gradient of ``linear``: a its output's gradient, b its input.

    For tensors that ``is_served`` says yes to.
    """
    product_OI: torch.Tensor = _ONEDNN(_padded(a_RO).t(), _padded(b_RI).t(), None, "none", [], "")
    return product_OI


def _padded(x_RI: torch.Tensor) -> torch.Tensor:
    """Rows of zeros put below, up to one of a few dozen sizes.

    oneDNN compiles kernels for every shape and keeps those of the last thousand, 0.7 MB each: with
    batches of all sizes a process would grow by hundreds of MB and compile all the time.
    """
    excess = _rounded(x_RI.shape[0]) - x_RI.shape[0]
    return nn.functional.pad(x_RI, (0, 0, 0, excess)) if excess else x_RI


def _rounded(rows: int) -> int:
    """Up to a multiple of a quarter of the power of two below, of an eighth from 1,024 on, of 4 at least."""
    step = 1 << max(2, rows.bit_length() - (3 if rows < 1024 else 4))
    return -(-rows // step) * step


@torch.no_grad()
def compile_for(model: nn.Module, rows: int) -> None:
    """Have oneDNN compile now what batches of up to ``rows`` rows will want of a model.

    For servers: their memory then stays, and no request waits for a compiler. Large products, which take
    longer than compiling does, are left for later.

    Args:
        model: with its weights.
        rows: of a pass, all columns of all its rows.
    """
    shapes = {w.shape: w for w in model.parameters() if w.dim() == 2}
    for weight in shapes.values():
        size = 0
        while size < rows and size * weight.numel() <= MAX_COMPILED_AHEAD:
            size = _rounded(size + 1)
            linear(weight.new_zeros(size, weight.shape[1]), weight)


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
