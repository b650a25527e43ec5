"""RMSNorm for the local layer spec that knows sequence parallelism.

megatron-core's own local norms refuse ``sequence_parallel``. Marking the weight is all it takes:
``finalize_model_grads`` then sums its gradient over the tensor-parallel ranks, each of which saw
only its part of the sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .composed import compiled, rms_norm


class _NormOnCpu(torch.autograd.Function):
    """y = x r w with r = 1 / sqrt(mean(x^2) + eps), in few passes; keeps x and r.

    dx = r g w - x r^3 mean(g w x), dw = sum of g x r over rows. torch composes its CPU norm of
    elementary operations and remembers each; on a GPU it has a kernel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        r = x.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, r, weight)
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, None]:
        (x, r, weight), (grad,) = ctx.saved_tensors, grad_outputs
        grad_x_r = grad * x
        along = (grad_x_r @ weight).div_(x.shape[-1]).unsqueeze(-1).mul_(r).mul_(r)
        grad_weight = grad_x_r.mul_(r).flatten(0, -2).sum(dim=0)
        return (grad * weight).addcmul_(x, along, value=-1).mul_(r), grad_weight, None


class RMSNorm(torch.nn.Module):
    """x / rms(x) * weight, computed in fp32 (Qwen2's order of rounding).

    Args:
        config: megatron-core TransformerConfig (``sequence_parallel``, ``params_dtype``).
        hidden_size: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, config: object, hidden_size: int, eps: float = 1e-6, **_: object) -> None:
        super().__init__()
        self.eps, self.is_compiled = eps, bool(getattr(config, "compiles_parts", False))
        weight = torch.ones(hidden_size, dtype=getattr(config, "params_dtype", torch.float32))
        self.weight = torch.nn.Parameter(weight)
        self.weight.sequence_parallel = bool(getattr(config, "sequence_parallel", False))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x`` [..., hidden_size]."""
        if self.is_compiled:
            normed: Tensor = compiled(rms_norm)(x, self.weight, self.eps)
            return normed
        if x.dtype == torch.float32:
            if x.device.type == "cpu":
                normed = _NormOnCpu.apply(x, self.weight, self.eps)
                return normed
            return torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        normed = torch.nn.functional.rms_norm(x.float(), (x.shape[-1],), None, self.eps)
        return self.weight * normed.to(x.dtype)
