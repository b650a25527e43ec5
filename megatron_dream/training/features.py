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
