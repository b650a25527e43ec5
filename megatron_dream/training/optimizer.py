"""Data-parallel wrapping, optimizer and schedules, with nothing left to silent defaults."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch

from .. import device
from ..config.schema import RunConfig

# Transformer Engine's optimizer takes uint8 for moments in FP8.
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.uint8}


class UpdateResult(NamedTuple):
    """What an optimizer step did."""

    applied: bool  # False: the gradient was not finite and nothing was changed
    grad_norm: float


@cache
def _data_parallel_class(is_alone: bool) -> Any:
    """megatron-core's wrapper; where the group is one process, without its collectives.

    gloo copies the whole buffer for a reduce-scatter and an all-gather with nobody.
    """
    from megatron.core.distributed import DistributedDataParallel

    class AloneDataParallel(DistributedDataParallel):
        """Gradients and parameters are already where an exchange would put them."""

        def start_param_sync(self, *_: Any, **__: Any) -> None:
            """Nothing to gather."""

        def start_grad_sync(self, *_: Any) -> None:
            """Nothing to add."""

        def finish_grad_sync(self, force_all_reduce: bool | None = False) -> None:
            """Nothing to wait for."""

    return AloneDataParallel if is_alone else DistributedDataParallel


def wrap_data_parallel(chunks: list[Any], config: RunConfig) -> list[Any]:
    """Wrap model chunks in megatron-core's mixed-precision and data-parallel modules.

    Afterwards the chunks' TransformerConfig carries the hooks that the schedules call.
    """
    from megatron.core import parallel_state
    from megatron.core.distributed import DistributedDataParallelConfig, finalize_model_grads
    from megatron.core.transformer.module import Float16Module

    parallel = config.parallel
    is_alone = parallel_state.get_data_parallel_world_size(with_context_parallel=True) == 1
    overlaps_reduce = parallel.overlap_grad_reduce and not is_alone
    overlaps_gather = parallel.overlap_param_gather and not is_alone
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=parallel.grad_reduce_in_fp32,
        overlap_grad_reduce=overlaps_reduce,
        overlap_param_gather=overlaps_gather,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        num_distributed_optimizer_instances=parallel.num_distributed_optimizer_instances,
        bucket_size=parallel.bucket_size,
        check_for_nan_in_grad=False,  # raises on one rank while the others hang; step() checks
    )
    wrapped = []
    for index, chunk in enumerate(chunks):
        inner = Float16Module(chunk.config, chunk) if config.training.precision == "bf16" else chunk
        wrapped.append(
            _data_parallel_class(is_alone)(
                config=chunk.config,
                ddp_config=ddp_config,
                module=inner,
                disable_bucketing=index > 0,
            )
        )
    for model in wrapped:
        model.broadcast_params()
    transformer = chunks[0].config
    transformer.finalize_model_grads_func = finalize_model_grads
    if overlaps_reduce:
        transformer.no_sync_func = [model.no_sync for model in wrapped]
        transformer.grad_sync_func = [model.start_grad_sync for model in wrapped]
    if overlaps_reduce and len(wrapped) == 1:
        transformer.no_sync_func = transformer.no_sync_func[0]
        transformer.grad_sync_func = transformer.grad_sync_func[0]
    if overlaps_gather:
        sync = [model.start_param_sync for model in wrapped]
        transformer.param_sync_func = sync if len(wrapped) > 1 else sync[0]
    return wrapped


def build_optimizer(wrapped: list[Any], config: RunConfig) -> Any:
    """megatron-core's optimizer (distributed or not) around Adam or SGD."""
    from megatron.core.optimizer import (
        OptimizerConfig,
        get_megatron_optimizer,
        get_standard_config_overrides,
    )

    ours, is_bf16 = config.optimizer, config.training.precision == "bf16"
    optimizer_config = OptimizerConfig(
        optimizer=ours.optimizer,
        lr=ours.lr,
        min_lr=ours.lr * ours.min_lr_ratio,
        weight_decay=ours.weight_decay,
        adam_beta1=ours.adam_beta1,
        adam_beta2=ours.adam_beta2,
        adam_eps=ours.adam_eps,
        sgd_momentum=ours.sgd_momentum,
        clip_grad=ours.clip_grad,
        bf16=is_bf16,
        params_dtype=torch.bfloat16 if is_bf16 else torch.float32,
        use_distributed_optimizer=config.parallel.use_distributed_optimizer,
        overlap_param_gather=wrapped[0].ddp_config.overlap_param_gather,
        use_precision_aware_optimizer=ours.use_precision_aware_optimizer,
        main_grads_dtype=_DTYPES[ours.main_grads_dtype],
        main_params_dtype=_DTYPES[ours.main_params_dtype],
        exp_avg_dtype=_DTYPES[ours.exp_avg_dtype],
        exp_avg_sq_dtype=_DTYPES[ours.exp_avg_sq_dtype],
        optimizer_cpu_offload=ours.optimizer_cpu_offload,
        optimizer_offload_fraction=ours.optimizer_offload_fraction,
        overlap_cpu_optimizer_d2h_h2d=ours.optimizer_cpu_offload,
    )
    transformer = wrapped[0].config
    optimizer = get_megatron_optimizer(
        optimizer_config,
        wrapped,
        config_overrides=get_standard_config_overrides(optimizer_config),
        use_gloo_process_groups=device.device_type() == "cuda",
    )
    transformer.grad_scale_func = optimizer.scale_loss
    return optimizer


def build_scheduler(optimizer: Any, config: RunConfig) -> Any:
    """Learning-rate and weight-decay schedule, counted in optimizer steps.

    Weight decay is taken off norms and biases by this scheduler's step, so it is always used.
    """
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    ours, steps = config.optimizer, config.training.train_steps
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=ours.lr,
        min_lr=ours.lr * ours.min_lr_ratio,
        lr_warmup_steps=min(math.ceil(steps * ours.lr_warmup_fraction), max(steps - 1, 0)),
        lr_decay_steps=max(steps, 1),
        lr_decay_style=ours.lr_decay_style,
        start_wd=ours.weight_decay,
        end_wd=ours.weight_decay,
        wd_incr_steps=max(steps, 1),
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )


def gradient_norm(optimizer: Any) -> float:
    """The norm of all gradients, summed over all processes; nothing is changed yet.

    NaN on a process that holds a copy which the norm counts elsewhere, and which is not finite: a rank
    that computed wrongly would apply it.
    """
    optimizer.prepare_grads()
    norm = float(optimizer.get_grad_norm())
    copies = [
        gradient
        for inner in getattr(optimizer, "chained_optimizers", [optimizer])
        for gradient in _copies(inner)
    ]
    if not copies:
        return norm
    is_finite = torch.stack(torch._foreach_norm(copies)).isfinite().all()
    return norm if bool(is_finite) else math.nan


def _copies(inner: Any) -> list[torch.Tensor]:
    """This process's gradients that are another's too: norms' under TP, of a table that stages share."""
    from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    is_decoupled = inner.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8
    name = "decoupled_grad" if is_decoupled else "grad"
    tp_group = getattr(inner, "tp_group", None)
    return [
        gradient
        for parameter in inner.get_parameters()
        if (gradient := getattr(parameter, name, None)) is not None
        and not (
            param_is_not_shared(parameter)
            and param_is_not_tensor_parallel_duplicate(parameter, tp_group)
        )
    ]


def apply_gradients(optimizer: Any, grad_norm: float) -> bool:
    """Clip and apply the gradients, after ``gradient_norm``; whether the optimizer did."""
    from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

    for inner in getattr(optimizer, "chained_optimizers", [optimizer]):
        parameters = inner.get_parameters()
        if parameters and inner.config.clip_grad > 0.0:
            clip_grad_by_total_norm_fp32(
                parameters,
                max_norm=inner.config.clip_grad,
                total_norm=grad_norm,
                use_decoupled_grad=inner.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8,
            )
    return bool(optimizer.step_with_ready_grads())


def update(optimizer: Any) -> UpdateResult:
    """Clip and apply the gradients, or leave everything as it is where they are not finite.

    For loops without a guard. megatron-core has no such check in bf16: found_inf exists with a
    gradient scaler only.
    """
    grad_norm = gradient_norm(optimizer)
    if not math.isfinite(grad_norm):
        return UpdateResult(False, grad_norm)
    return UpdateResult(apply_gradients(optimizer, grad_norm), grad_norm)
