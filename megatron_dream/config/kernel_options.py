"""Kernels that a configuration asks for by name, where they cannot be had together with what else it asks."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_dream.config.schema import RunConfig


def kernel_faults(config: RunConfig) -> Iterator[str]:
    """A sentence for each: what is wrong and what to do."""
    training = config.training
    if training.compile == "on" and training.deterministic:
        yield (
            "training.compile picks kernels by timing them, which training.deterministic cannot have; set "
            "compile to auto or deterministic to false"
        )
    size = config.parallel.tensor_model_parallel_size
    if training.fused_cross_entropy and size > 1:
        yield (
            "training.fused_cross_entropy needs the whole vocabulary on one rank, and "
            f"parallel.tensor_model_parallel_size is {size}; set it to 1 or fused_cross_entropy to false"
        )
