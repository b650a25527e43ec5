"""The head's softmax and cross-entropy by Liger's Triton kernel: one pass over a chunk's logits.

Liger's own fused linear cross-entropy is not used: it weights all rows alike, or runs the head's product
again in the backward pass where a loss a row is asked for (its reduction "none"), and rounds the table's
gradient to bf16. head.py cuts rows into chunks and accumulates as before; only what happens to a chunk's
logits between its matrix products is Liger's. Weights, temperature and losses of rl therefore stay per row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import MissingDependencyError

_IGNORED = -100  # no row's label here: the head gets rows with loss only


def liger_kernel() -> Any:
    """Liger's ``cross_entropy_forward``.

    Raises:
        MissingDependencyError: liger-kernel, or Triton below it, is not installed.
    """
    try:
        from liger_kernel.ops.cross_entropy import cross_entropy_forward
    except ImportError as error:
        raise MissingDependencyError(
            f"training.fused_cross_entropy needs Liger's kernels, which cannot be imported ({error}): pip "
            "install 'megatron-dream[liger]', or set the field to false"
        ) from None
    return cross_entropy_forward


def fused_statistics(
    logits_CV: Tensor, labels_C: Tensor, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Cross-entropies [C] fp32 and whether each label has the highest logit [C].

    Args:
        logits_CV: fp32, of the whole vocabulary; becomes softmax - onehot where a gradient is needed.
        labels_C: ids, each a column.
        needs_gradient: whether that is wanted.

    Raises:
        MissingDependencyError: see ``liger_kernel``.
    """
    logits_CV.requires_grad_(needs_gradient)  # what the kernel goes by
    with torch.no_grad():
        loss_C, _, _, top_C, _ = liger_kernel()(
            logits_CV, labels_C, None, _IGNORED, 0.0, 0.0, "none", None, False, False, True
        )
    logits_CV.requires_grad_(False)
    return loss_C, top_C == labels_C
