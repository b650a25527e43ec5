"""Weights in FP8 for sampling: half the bytes of bf16, which is what a block's pass waits for.

A weight is kept as float8_e4m3fn with one fp32 scale for each output; an input gets one for each row when
it arrives: y = (x8 w8^T) s_x s_w, summed in fp32. On a GPU of compute capability 8.9 or more
``torch._scaled_mm`` multiplies; elsewhere both factors are widened first, the same numbers up to the order
of a sum, which serves tests and not speed. Attention, norms, embedding and head stay as they are.

Error: e4m3 has 3 bits behind the point, so that a number x under scale s is off by at most
max(|x| / 16, s / 1024), s the largest of its row or output over 448.

Shapes: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import nn

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
UNIT = 16  # inputs and outputs must be multiples of it (torch._scaled_mm)
_SMALLEST_SCALE = 1e-12  # of a row of zeros


def to_fp8(values_RI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers as e4m3 [R, I] and a fp32 scale [R, 1] for each row, whose product they are."""
    most_R1 = torch.linalg.vector_norm(values_RI, float("inf"), -1, keepdim=True).float()
    scale_R1 = (most_R1 / LARGEST).clamp(min=_SMALLEST_SCALE)
    return (values_RI / scale_R1).to(E4M3), scale_R1


def fp8_linear(
    x: torch.Tensor,
    weight_OI: torch.Tensor,
    scale_O1: torch.Tensor,
    bias_O: torch.Tensor | None = None,
) -> torch.Tensor:
    """``torch.nn.functional.linear`` with both factors in FP8.

    Args:
        x: [..., I], bf16 or fp32; the result has its type.
        weight_OI: of ``to_fp8``.
        scale_O1: its scales.
        bias_O: not in FP8.
    """
    rows_RI, scale_R1 = to_fp8(x.reshape(-1, x.shape[-1]))
    if x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 9):
        product_RO = torch._scaled_mm(
            rows_RI, weight_OI.t(), scale_R1, scale_O1.t(), out_dtype=torch.bfloat16
        ).to(x.dtype)
    else:
        wide_RO = rows_RI.float() @ weight_OI.float().t()
        product_RO = (wide_RO * scale_R1 * scale_O1.t()).to(x.dtype)
    if bias_O is not None:
        product_RO = product_RO + bias_O
    return product_RO.view(*x.shape[:-1], -1)


class Fp8Linear(nn.Module):
    """``torch.nn.Linear`` with its weight in FP8; for inference.

    Args:
        linear: whose weight is taken; it is not kept.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI, scale_O1 = to_fp8(linear.weight.detach())
        # As bytes: a later model.to(dtype) leaves them alone.
        self.register_buffer("weight", weight_OI.view(torch.uint8))
        self.register_buffer("scale", scale_O1)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From [..., I] to [..., O]."""
        return fp8_linear(x, self.weight.view(E4M3), self.scale.float(), self.bias)


def use_fp8_weights(layers: nn.Module) -> int:
    """Put the linear layers inside a module into FP8, one after the other, in place.

    Returns:
        how many.

    Raises:
        ValueError: one has a size that FP8 products cannot have, or there is none; nothing is changed then.
    """
    found = {name: one for name, one in layers.named_modules() if isinstance(one, nn.Linear)}
    if not found:
        raise ValueError("FP8 weights: the model has no linear layers that could be put into FP8.")
    for name, linear in found.items():
        if linear.in_features % UNIT or linear.out_features % UNIT:
            raise ValueError(
                f"FP8 weights need sizes that are multiples of {UNIT}, but {name} is "
                f"{linear.in_features} x {linear.out_features}: leave the weights in bf16."
            )
    for name, linear in found.items():
        parent, _, child = name.rpartition(".")
        setattr(layers.get_submodule(parent), child, Fp8Linear(linear))
    return len(found)
