"""Options of large runs that need a GPU or Transformer Engine, refused where that is absent."""

from __future__ import annotations

from .. import device
from ..config.schema import RunConfig
from ..errors import ConfigError, MissingDependencyError
from ..model.fused_softmax import liger_kernel


def check_features(config: RunConfig) -> None:
    """Refuse what this machine cannot do, before anything is built.

    Args:
        config: of the run, its layer spec resolved.

    Raises:
        ConfigError: a GPU is needed.
        MissingDependencyError: Transformer Engine, apex, Liger's kernels or a compiler is needed.
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
    _check_kernels(config, on_gpu)
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
    ):
        if is_set and not has_it:
            raise MissingDependencyError(
                f"{field} is of Transformer Engine's layers, which do not work here; install it "
                "(pip install 'megatron-dream[te]') on a machine with a GPU, or leave the field out"
            )
    recipe = config.fp8.recipe
    capability = device.compute_capability() if recipe != "none" else None
    if capability is not None:
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


def _check_kernels(config: RunConfig, on_gpu: bool) -> None:
    """Kernels that are asked for by name must be there."""
    training, is_local = config.training, config.model.layer_spec == "local"
    if training.compile == "on":
        if not is_local:
            raise ConfigError(
                "training.compile is of the local layers, and the layers are Transformer Engine's, which are "
                "fused already; leave it out or set model.layer_spec: local"
            )
        if not device.can_compile():
            raise MissingDependencyError(
                "training.compile is on, and torch.compile finds no "
                + (
                    "Triton, which CUDA builds of torch bring along; "
                    if on_gpu
                    else "C++ compiler; "
                )
                + "install it, or set the field to auto"
            )
    wants_apex = is_local and training.gradient_accumulation_fusion == "on"
    if wants_apex and not device.has_fused_weight_gradients():
        raise MissingDependencyError(
            "training.gradient_accumulation_fusion is on, and apex's fused_weight_gradient_mlp_cuda does not "
            "work here; build apex on a machine with a GPU (docs/environment.md), or set the field to auto"
        )
    if training.fused_cross_entropy:
        if not on_gpu:
            raise ConfigError(
                "training.fused_cross_entropy is a kernel for GPUs, and there is none here; leave it out."
            )
        liger_kernel()
