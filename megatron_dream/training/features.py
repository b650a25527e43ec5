"""Options of large runs that need a GPU or Transformer Engine, refused where that is absent."""

from __future__ import annotations

from .. import device
from ..config.schema import RunConfig
from ..errors import ConfigError, MissingDependencyError


def check_features(config: RunConfig) -> None:
    """Refuse what this machine cannot do, before anything is built.

    Args:
        config: of the run, its layer spec resolved.

    Raises:
        ConfigError: a GPU is needed.
        MissingDependencyError: Transformer Engine is needed.
    """
    on_gpu = device.device_type() == "cuda"
    for field, is_set in (
        ("optimizer.optimizer_cpu_offload", config.optimizer.optimizer_cpu_offload),
        ("training.offload_modules", bool(config.training.offload_modules)),
    ):
        if is_set and not on_gpu:
            raise ConfigError(
                f"{field} moves tensors from a GPU to the host, and there is no GPU here; leave it out."
            )
    if config.training.cuda_graphs and not on_gpu:
        raise ConfigError(
            "training.cuda_graphs records the work of a GPU, and there is no GPU here; leave it out."
        )
    _check_transformer_engine(config)
    if config.training.offload_modules and config.model.layer_spec != "transformer_engine":
        raise MissingDependencyError(
            "training.offload_modules works on Transformer Engine's layers only; install it "
            "(pip install 'megatron-dream[te]') or leave the field out"
        )
    if config.optimizer.use_precision_aware_optimizer and not device.has_transformer_engine():
        raise MissingDependencyError(
            "optimizer.use_precision_aware_optimizer is Transformer Engine's optimizer, which does not "
            "work here; install it (pip install 'megatron-dream[te]') on a machine with a GPU, or set "
            "the field to false"
        )


def _check_transformer_engine(config: RunConfig) -> None:
    """Refuse what needs its layers where there are others, and FP8 that the device does not have."""
    has_it = config.model.layer_spec == "transformer_engine"
    for field, is_set in (
        (f"fp8.recipe {config.fp8.recipe}", config.fp8.recipe != "none"),
        ("parallel.tp_comm_overlap", config.parallel.tp_comm_overlap),
        ("parallel.cp_comm_type p2p", config.parallel.cp_comm_type == "p2p"),
    ):
        if is_set and not has_it:
            raise MissingDependencyError(
                f"{field} is of Transformer Engine's layers, which do not work here; install it "
                "(pip install 'megatron-dream[te]') on a machine with a GPU, or leave the field out"
            )
    recipe, capability = config.fp8.recipe, device.compute_capability()
    if recipe != "none" and capability is not None:
        if reason := why_no_fp8(recipe, capability, device.cuda_version()):
            raise ConfigError(f"fp8.recipe {recipe} {reason}.")


def why_no_fp8(recipe: str, capability: tuple[int, int], cuda: tuple[int, int]) -> str | None:
    """Why a device cannot multiply by a recipe, to follow its name; None: it can.

    The conditions are Transformer Engine's (pytorch/quantization.py), told before anything is built.

    Args:
        recipe: of ``fp8.recipe``.
        capability: of the device: (8, 9) Ada, (9, 0) Hopper, (10, 0) Blackwell.
        cuda: version that torch was built with.
    """
    here = f"this device has {capability[0]}.{capability[1]}, torch CUDA {cuda[0]}.{cuda[1]}"
    if recipe == "mxfp8":
        if (10, 0) <= capability < (12, 0):
            return None
        return f"needs compute capability 10.x (Blackwell), and {here}; use current"
    if recipe == "blockwise":
        if capability >= (9, 0) and cuda >= (12, 9):
            return None
        return f"needs compute capability 9.0 (Hopper) and CUDA 12.9, and {here}; use current"
    if capability >= (9, 0) or (capability >= (8, 9) and cuda >= (12, 1)):
        return None
    return (
        "needs compute capability 9.0 (Hopper), or 8.9 (Ada) with CUDA 12.1, and "
        f"{here}; set it to none"
    )
