"""RMSNorm for the local layer spec that knows sequence parallelism.

megatron-core's own local norms refuse ``sequence_parallel``. Marking the weight is all it takes:
``finalize_model_grads`` then sums its gradient over the tensor-parallel ranks, each of which saw
only its part of the sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RMSNorm(torch.nn.Module):
    """x / rms(x) * weight, computed in fp32 (Qwen2's order of rounding).

    Args:
        config: megatron-core TransformerConfig (``sequence_parallel``, ``params_dtype``).
        hidden_size: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, config: object, hidden_size: int, eps: float = 1e-6, **_: object) -> None:
        super().__init__()
        self.eps = eps
        weight = torch.ones(hidden_size, dtype=getattr(config, "params_dtype", torch.float32))
        self.weight = torch.nn.Parameter(weight)
        self.weight.sequence_parallel = bool(getattr(config, "sequence_parallel", False))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x`` [..., hidden_size]."""
        if x.dtype == torch.float32:
            return torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        normed = torch.nn.functional.rms_norm(x.float(), (x.shape[-1],), None, self.eps)
        return self.weight * normed.to(x.dtype)
