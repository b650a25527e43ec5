"""Buffers of Transformer Engine that hide the collectives of tensor parallelism behind products.

They are made once a process, before the first pass, for one width; read against Transformer Engine 2.8 to
2.16 (pytorch/module/base.py: initialize_ub), not run on a GPU yet.
"""

from __future__ import annotations

import torch

from ..config.layout import Layout
from ..config.schema import RunConfig


def buffer_shape(config: RunConfig, layout: Layout) -> list[int]:
    """[rows of a product, hidden]: rows s b / CP, whole, of which each rank of TP has a shard."""
    tokens = config.data.sequence_length * layout.micro_batch_size
    return [tokens // layout.cp, config.model.hidden_size]


def start_overlap(config: RunConfig, layout: Layout) -> None:
    """Allocate the buffers where ``parallel.tp_comm_overlap`` asks for them; every process calls this."""
    if not config.parallel.tp_comm_overlap:
        return
    from transformer_engine.pytorch.module import base

    kinds = base.UserBufferQuantizationMode
    fp8 = config.fp8
    modes = [kinds.FP8] if fp8.recipe != "none" else [kinds.NONE]
    if fp8.recipe != "none" and (fp8.first_layers_bf16 or fp8.last_layers_bf16):
        modes.append(kinds.NONE)
    base.initialize_ub(
        shape=buffer_shape(config, layout),
        tp_size=layout.tp,
        quantization_modes=modes,
        dtype=torch.bfloat16,
        bootstrap_backend="nccl",
    )
