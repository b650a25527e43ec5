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
