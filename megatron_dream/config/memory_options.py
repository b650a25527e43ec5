"""Options that trade memory for time: which go together, and what they need.

Without a process: what a CPU or an absent package cannot do is refused in training/features.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from megatron_dream.config.schema import OptimizerConfig, RunConfig, TrainingConfig

PRECISION_FIELDS = ("main_grads_dtype", "main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype")


def memory_faults(config: RunConfig) -> Iterator[str]:
    """Sentences, without their full stop, about fields that contradict one another."""
    yield from _recompute_faults(config.training)
    if config.training.offload_modules and config.model.layer_spec == "local":
        yield (
            "training.offload_modules works on Transformer Engine's layers only, and model.layer_spec is "
            "local; leave one of them out"
        )
    yield from _optimizer_faults(config)
    instances = config.parallel.num_distributed_optimizer_instances
    if instances > 1 and not config.parallel.use_distributed_optimizer:
        yield (
            f"parallel.num_distributed_optimizer_instances is {instances}, and "
            "parallel.use_distributed_optimizer is false; turn it on or give 1"
        )


def _recompute_faults(training: TrainingConfig) -> Iterator[str]:
    default = TrainingConfig()
    if training.recompute == "selective" and not training.recompute_modules:
        yield (
            "training.recompute is selective and training.recompute_modules is empty; name modules or "
            "set recompute to none"
        )
    if len(set(training.recompute_modules)) < len(training.recompute_modules):
        yield "training.recompute_modules names a module twice; name each once"
    if (
        training.recompute != "selective"
        and training.recompute_modules != default.recompute_modules
    ):
        yield (
            f"training.recompute_modules belongs to training.recompute: selective, which is "
            f"{training.recompute}; leave it out"
        )
    for name in ("recompute_method", "recompute_num_layers"):
        if training.recompute != "full" and getattr(training, name) != getattr(default, name):
            yield f"training.{name} belongs to training.recompute: full; leave it out"
    if training.offload_modules and training.recompute == "full":
        yield (
            "training.offload_modules keeps inputs that training.recompute: full does not keep; leave "
            "one of them out"
        )
    if "attn_proj" in training.offload_modules and "core_attn" not in training.offload_modules:
        yield (
            "training.offload_modules: attn_proj is core_attn's output, which core_attn needs; add "
            "core_attn"
        )


def _optimizer_faults(config: RunConfig) -> Iterator[str]:
    ours, default = config.optimizer, OptimizerConfig()
    for name in PRECISION_FIELDS:
        value = getattr(ours, name)
        if not ours.use_precision_aware_optimizer and value != getattr(default, name):
            yield (
                f"optimizer.{name} is {value}, which only optimizer.use_precision_aware_optimizer "
                "takes; turn that on"
            )
    special = ours.use_precision_aware_optimizer or ours.optimizer_cpu_offload
    which = (
        "use_precision_aware_optimizer"
        if ours.use_precision_aware_optimizer
        else "optimizer_cpu_offload"
    )
    if special and ours.optimizer != "adam":
        yield f"optimizer.{which} knows only adam; set optimizer.optimizer to adam"
    if special and not config.parallel.use_distributed_optimizer:
        yield f"optimizer.{which} needs parallel.use_distributed_optimizer; turn it on"
    if ours.use_precision_aware_optimizer and config.training.precision == "fp32":
        yield (
            "optimizer.use_precision_aware_optimizer keeps main weights beside bf16 ones; set "
            "training.precision to bf16"
        )
    if ours.main_grads_dtype == "bf16" and config.parallel.grad_reduce_in_fp32:
        yield (
            "optimizer.main_grads_dtype is bf16, and parallel.grad_reduce_in_fp32 keeps gradients in "
            "fp32; set the latter to false"
        )
    if not ours.optimizer_cpu_offload and ours.optimizer_offload_fraction != 1.0:
        yield "optimizer.optimizer_offload_fraction belongs to optimizer.optimizer_cpu_offload; leave it out"
