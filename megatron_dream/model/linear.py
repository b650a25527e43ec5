"""megatron-core's parallel linear layers; on a CPU their three matrix products go to sampling/kernels.py.

Everything else is megatron-core's: shards, initialization, communication, checkpoints. Where a product
is to do more than multiply (sequence parallelism gathers and scatters around it, fused accumulation, a
deferred gradient), and on a GPU, the product is megatron-core's too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from ..sampling.kernels import is_served, linear, summed_outer


class _Product(torch.autograd.Function):
    """x W^T + b; the gradient of x is summed over ``group`` while that of W is computed."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group = group
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (x, weight), grad = ctx.saved_tensors, grad_outputs[0]
        grad_x = grad_weight = grad_bias = summing = None
        if ctx.needs_input_grad[0]:
            grad_x = linear(grad, weight.t())
            if ctx.group is not None:
                summing = dist.all_reduce(grad_x, group=ctx.group, async_op=True)
        flat_grad = grad.reshape(-1, grad.shape[-1])
        if ctx.needs_input_grad[1]:
            grad_weight = summed_outer(flat_grad, x.reshape(-1, x.shape[-1]))
        if ctx.needs_input_grad[2]:
            grad_bias = flat_grad.sum(0)
        if summing is not None:
            summing.wait()
        return grad_x, grad_weight, grad_bias, None


class _CpuProducts:
    """Put before one of megatron-core's layers."""

    def _forward_impl(self, input: Tensor, weight: Tensor, *others: Any, **named: Any) -> Tensor:
        """One product; the names are megatron-core's."""
        is_plain = not (
            others
            or named["sequence_parallel"]
            or named["gradient_accumulation_fusion"]
            or named["grad_output_buffer"] is not None
        )
        if is_plain and is_served(input, weight):
            group = named["tp_group"] if named["allreduce_dgrad"] else None
            return _Product.apply(input, weight, named["bias"], group)
        product: Tensor = super()._forward_impl(input, weight, *others, **named)  # type: ignore[misc]
        return product


class ColumnParallel(_CpuProducts, ColumnParallelLinear):
    """Each tensor-parallel rank has some of the outputs."""


class RowParallel(_CpuProducts, RowParallelLinear):
    """Each tensor-parallel rank has some of the inputs."""
