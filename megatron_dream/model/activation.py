"""SwiGLU of the local layer spec: two passes over memory forward, four backward, one tensor kept.

Composed of torch's operations it would keep silu(gate), up and their product's inputs for the
backward pass and concatenate the two halves of the gradient; here both halves are written in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from .composed import compiled, swiglu


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (gate_up,), (grad,) = ctx.saved_tensors, grad_outputs
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(grad, silu(gate), out=grad_up)
        torch.ops.aten.silu_backward(grad * up, gate, grad_input=grad_gate)
        return grad_gate_up


class SwiGLU(torch.nn.Module):
    """silu(gate) * up, as megatron-core takes an activation of its MLP."""

    def __init__(self, config: object, **_: object) -> None:
        super().__init__()
        self.is_compiled = bool(getattr(config, "compiles_parts", False))

    def forward(self, gate_up: Tensor) -> Tensor:
        """From [..., 2F], gate first, to [..., F]."""
        activated: Tensor = (compiled(swiglu) if self.is_compiled else _SwiGLU.apply)(gate_up)
        return activated

    def sharded_state_dict(self, *_: object, **__: object) -> dict[str, object]:
        """Nothing to save; megatron-core's MLP asks each of its parts."""
        return {}
