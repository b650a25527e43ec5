"""Values that each number of a configuration may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Range:
    """Values a number may have; ``words`` completes "must be ..."."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Range("above 0", lambda x: x > 0)
NOT_NEGATIVE = Range("0 or more", lambda x: x >= 0)
SHARE = Range("between 0 and 1", lambda x: 0 <= x <= 1)
SHARE_BELOW_ONE = Range("at least 0 and below 1", lambda x: 0 <= x < 1)
SHARE_ABOVE_ZERO = Range("above 0 and at most 1", lambda x: 0 < x <= 1)
OPEN_SHARE = Range("above 0 and below 1", lambda x: 0 < x < 1)
ABOVE_ONE = Range("above 1", lambda x: x > 1)
AT_LEAST_TWO = Range("2 or more", lambda x: x >= 2)
FACTOR = Range("above 1, or 0 for off", lambda x: x > 1 or x == 0)
SEED = Range("0 or more and below 2**63", lambda x: 0 <= x < 2**63)
ENGINE_SEED = Range("0 or more and below 2**31", lambda x: 0 <= x < 2**31)

RANGES = MappingProxyType(
    {
        "model.num_layers": NOT_NEGATIVE,  # 0: filled by the preset or the checkpoint
        "model.hidden_size": NOT_NEGATIVE,
        "model.num_attention_heads": NOT_NEGATIVE,
        "model.num_query_groups": NOT_NEGATIVE,
        "model.ffn_hidden_size": NOT_NEGATIVE,
        "model.vocab_size": NOT_NEGATIVE,
        "model.max_position_embeddings": POSITIVE,
        "model.norm_epsilon": POSITIVE,
        "model.rotary_base": POSITIVE,
        "model.init_method_std": POSITIVE,
        "model.attention_dropout": SHARE_BELOW_ONE,
        "model.hidden_dropout": SHARE_BELOW_ONE,
        "model.head_chunk_rows": POSITIVE,
        "parallel.tensor_model_parallel_size": POSITIVE,
        "parallel.pipeline_model_parallel_size": POSITIVE,
        "parallel.virtual_pipeline_model_parallel_size": POSITIVE,
        "parallel.num_layers_in_first_pipeline_stage": POSITIVE,
        "parallel.num_layers_in_last_pipeline_stage": POSITIVE,
        "parallel.context_parallel_size": POSITIVE,
        "parallel.num_distributed_optimizer_instances": POSITIVE,
        "parallel.bucket_size": POSITIVE,
        "parallel.distributed_timeout_minutes": POSITIVE,
        "data.sequence_length": AT_LEAST_TWO,
        "data.random_length": SHARE,
        "data.seed": SEED,
        "data.num_workers": NOT_NEGATIVE,
        "data.new_stream": NOT_NEGATIVE,
        "diffusion.cart_p": SHARE_ABOVE_ZERO,
        "diffusion.t_min": OPEN_SHARE,
        "diffusion.anneal_steps": NOT_NEGATIVE,
        "sft.truncation_group_size": NOT_NEGATIVE,
        "sft.length_group_size": NOT_NEGATIVE,
        "sft.max_appended": NOT_NEGATIVE,
        "sft.expand_probability": SHARE,
        "sft.span_share": SHARE,
        "rl.prompts_per_step": POSITIVE,
        "rl.group_size": AT_LEAST_TWO,
        "rl.max_prompt_length": POSITIVE,
        "rl.response_length": AT_LEAST_TWO,
        "rl.temperature": POSITIVE,
        "rl.top_p": SHARE_ABOVE_ZERO,
        "rl.steps": NOT_NEGATIVE,
        "rl.block_length": NOT_NEGATIVE,
        "rl.threshold": SHARE,
        "rl.entropy_bound": NOT_NEGATIVE,
        "rl.rollout_rows": POSITIVE,
        "rl.policy_epochs": POSITIVE,
        "rl.trace_steps": POSITIVE,
        "rl.t_low": SHARE,
        "rl.t_high": SHARE,
        "rl.cart_p": SHARE_ABOVE_ZERO,
        "rl.clip_low": SHARE,
        "rl.clip_high": NOT_NEGATIVE,
        "rl.kl_coefficient": NOT_NEGATIVE,
        "rl.judge_workers": NOT_NEGATIVE,
        "rl.judge_cpu_seconds": POSITIVE,
        "rl.judge_wall_seconds": POSITIVE,
        "rl.judge_memory_mb": POSITIVE,
        "rl.max_infrastructure_share": SHARE,
        "optimizer.lr": POSITIVE,
        "optimizer.min_lr_ratio": SHARE,
        "optimizer.lr_warmup_fraction": SHARE_BELOW_ONE,
        "optimizer.adam_beta1": SHARE_BELOW_ONE,
        "optimizer.adam_beta2": SHARE_BELOW_ONE,
        "optimizer.adam_eps": POSITIVE,
        "optimizer.sgd_momentum": SHARE_BELOW_ONE,
        "optimizer.weight_decay": NOT_NEGATIVE,
        "optimizer.clip_grad": NOT_NEGATIVE,
        "optimizer.optimizer_offload_fraction": SHARE_ABOVE_ZERO,
        "training.train_steps": POSITIVE,
        "training.micro_batch_size": POSITIVE,
        "training.global_batch_size": POSITIVE,
        "training.seed": ENGINE_SEED,
        "training.recompute_num_layers": POSITIVE,
        "training.eval_interval": NOT_NEGATIVE,
        "training.eval_samples": POSITIVE,
        "training.round_widths_to": NOT_NEGATIVE,
        "training.round_head_rows_to": NOT_NEGATIVE,
        "fp8.margin": NOT_NEGATIVE,
        "fp8.amax_history": POSITIVE,
        "fp8.first_layers_bf16": NOT_NEGATIVE,
        "fp8.last_layers_bf16": NOT_NEGATIVE,
        "checkpoint.save_interval": NOT_NEGATIVE,
        "checkpoint.keep_last": POSITIVE,
        "checkpoint.keep_every": NOT_NEGATIVE,
        "checkpoint.host_memory_gb": POSITIVE,
        "checkpoint.export_interval": NOT_NEGATIVE,
        "faults.spike_window": AT_LEAST_TWO,
        "faults.loss_spike_factor": FACTOR,
        "faults.loss_spike_rise": NOT_NEGATIVE,
        "faults.grad_norm_spike_factor": FACTOR,
        "faults.grad_norm_spike_floor": NOT_NEGATIVE,
        "faults.patience": NOT_NEGATIVE,
        "faults.max_skips_in_window": NOT_NEGATIVE,
        "faults.rollback_extra_steps": NOT_NEGATIVE,
        "faults.max_rollbacks": NOT_NEGATIVE,
        "faults.max_missed_saves": NOT_NEGATIVE,
        "faults.save_timeout_minutes": POSITIVE,
        "faults.slow_save_seconds": POSITIVE,
        "logging.interval": POSITIVE,
        "logging.plain_interval_seconds": POSITIVE,
        "watch.step_limit_seconds": NOT_NEGATIVE,
        "watch.first_step_limit_seconds": NOT_NEGATIVE,
        "watch.start_limit_seconds": NOT_NEGATIVE,
        "watch.save_limit_seconds": NOT_NEGATIVE,
        "watch.validation_limit_seconds": NOT_NEGATIVE,
        "watch.rollout_limit_seconds": NOT_NEGATIVE,
        "watch.hang_grace_seconds": POSITIVE,
        "watch.heartbeat_seconds": POSITIVE,
        "watch.time_limit_minutes": NOT_NEGATIVE,
        "watch.time_limit_margin_seconds": NOT_NEGATIVE,
        "watch.unmeasured_save_seconds": NOT_NEGATIVE,
        "watch.max_starts_without_progress": NOT_NEGATIVE,
        "watch.gc_interval_steps": NOT_NEGATIVE,
        "watch.straggler_interval_steps": NOT_NEGATIVE,
        "watch.straggler_factor": ABOVE_ONE,
        "alerts.min_interval_minutes": NOT_NEGATIVE,
        "alerts.timeout_seconds": POSITIVE,
        "alerts.low_goodput": SHARE,
        "alerts.old_checkpoint_minutes": NOT_NEGATIVE,
        "alerts.disk_free_gib": NOT_NEGATIVE,
    }
)
