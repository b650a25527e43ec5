"""Weight gradients that a kernel adds to the gradient buffer give the losses of those that autograd does."""

from __future__ import annotations

import pytest
from kernel_jobs import fused_losses
from layout_jobs import Case, losses
from pool import WorkerPool


@pytest.mark.parametrize(
    "sizes", [{}, {"tensor_model_parallel_size": 2}, {"use_distributed_optimizer": False}]
)
def test_fused_weight_gradients_change_no_loss(pool: WorkerPool, sizes: dict[str, object]) -> None:
    """The kernel computes grad^T input as the product does, and adds it to the same fp32 buffer.

    Several micro-batches a step: a buffer that is overwritten, or counted twice, would show from the
    second loss on.
    """
    case = Case(parallel=sizes, steps=4)
    world_size = 2 if "tensor_model_parallel_size" in sizes else 1
    expected = pool.run(losses, world_size, case=case)[0]
    for found, calls in pool.run(fused_losses, world_size, case=case):
        assert found == pytest.approx(expected, rel=1e-5)
        assert calls == 4 * 8 * 4 * 4  # steps, micro-batches, layers, products of a layer
