"""Jobs of test_kernels.py: a training step whose weight gradients a kernel adds to the buffer itself."""

from __future__ import annotations

import types
from typing import Any
from unittest import mock

from layout_jobs import Case, losses
from torch import Tensor


def fused_losses(case: Case) -> tuple[list[float], int]:
    """Losses with a stand-in for apex's kernel, and how often that was called."""
    from megatron_dream import device

    device.import_megatron()
    from megatron.core.tensor_parallel import layers

    calls = []

    def accumulate(total_input: Tensor, grad_output: Tensor, main_grad: Tensor) -> None:
        calls.append(tuple(main_grad.shape))
        main_grad.addmm_(grad_output.t().float(), total_input.float())

    kernel: Any = types.SimpleNamespace(wgrad_gemm_accum_fp32=accumulate)
    with (
        mock.patch.object(device, "has_fused_weight_gradients", lambda: True),
        mock.patch.object(layers, "_grad_accum_fusion_available", True),
        mock.patch.object(layers, "fused_weight_gradient_mlp_cuda", kernel, create=True),
    ):
        return losses(case), len(calls)
