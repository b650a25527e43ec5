"""Check a configuration before anything starts: ranges of numbers, fields that need one another.

What depends on the number of processes is in ``layout.py``. Every error is one sentence that names
the field and says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from megatron_dream.config.convert import nearest
from megatron_dream.config.gpu_options import gpu_faults
from megatron_dream.config.kernel_options import kernel_faults
from megatron_dream.config.memory_options import memory_faults
from megatron_dream.config.ranges import RANGES
from megatron_dream.config.schema import (
    ALERT_KINDS,
    AlertsConfig,
    RlConfig,
    RunConfig,
    SftConfig,
    SourceConfig,
)
from megatron_dream.errors import ConfigError

STAGES = ("pretrain", "sft", "rl")


def validate(config: RunConfig, stage: str = "pretrain") -> None:
    """Refuse values out of range and fields that contradict one another.

    Args:
        config: the run, as ``load_config`` gives it.
        stage: what the configuration is for; one of ``STAGES``.

    Raises:
        ConfigError: the first fault found.
    """
    _check_stage(stage)
    _check_ranges(config)
    for faults in (
        _place_faults(config),
        _field_faults(config, stage),
        _stage_faults(config, stage),
    ):
        for fault in faults:
            raise ConfigError(f"{fault}.")


def check_shape(config: RunConfig, stage: str = "pretrain") -> None:
    """``validate`` without what only a run has: its folder, tokenizer, data and number of steps.

    For a plan, which needs the numbers of a run and none of its files. 0 steps count as not given yet.

    Raises:
        ConfigError: the first fault found.
    """
    _check_stage(stage)
    _check_ranges(config, optional=("training.train_steps",))
    for fault in _field_faults(config, stage):
        raise ConfigError(f"{fault}.")


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise ConfigError(
            f"stage {stage!r} is not known; the nearest one is {nearest(stage, STAGES)}."
        )


def _check_ranges(config: RunConfig, optional: Collection[str] = ()) -> None:
    """Refuse a number out of its range; those that are ``optional`` may be 0."""
    for path, allowed in RANGES.items():
        value = _value(config, path)
        if value is None or (value == 0 and path in optional):
            continue
        if not allowed.holds(value):
            raise ConfigError(f"{path} must be {allowed.words}, it is {value}.")


def _value(config: Any, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(config, section), name)


def _place_faults(config: RunConfig) -> Iterator[str]:
    if not config.checkpoint.run_folder:
        yield "checkpoint.run_folder is not given; name the folder that everything is written to"
    if not config.tokenizer.path:
        yield "tokenizer.path is not given; name the tokenizer that the data was preprocessed with"


def _field_faults(config: RunConfig, stage: str) -> Iterator[str]:
    """Of model, layout, optimizer and objective, in any stage."""
    if config.optimizer.optimizer == "sgd" and config.parallel.use_distributed_optimizer:
        yield (
            "optimizer.optimizer is sgd, but megatron-core's distributed optimizer knows only adam; "
            "set parallel.use_distributed_optimizer to false"
        )
    dropout = config.model.attention_dropout or config.model.hidden_dropout
    if config.training.deterministic and dropout:
        yield (
            "training.deterministic promises equal bits after a resume, and dropout's random state is not "
            "saved; set model.attention_dropout and model.hidden_dropout to 0, or deterministic to false"
        )
    yield from _diffusion_faults(config)
    yield from memory_faults(config)
    yield from gpu_faults(config, stage)
    yield from kernel_faults(config)


def _stage_faults(config: RunConfig, stage: str) -> Iterator[str]:
    if stage == "rl":
        yield from _rl_faults(config)
    else:
        yield from _data_faults(config)
    yield from _alert_faults(config.alerts)
    if stage == "sft":
        yield from _sft_faults(config)
    for name, default in (("sft", SftConfig()), ("rl", RlConfig())):
        if stage != name and getattr(config, name) != default:
            words = "pretraining" if stage == "pretrain" else f"the {stage} stage"
            yield (
                f"{name} has no meaning in {words}; leave it out, or train with megatron-dream {name}"
            )


def _data_faults(config: RunConfig) -> Iterator[str]:
    if not config.data.train:
        yield "data.train is empty; give at least one source with its prefix"
    for split in ("train", "valid"):
        yield from _source_faults(getattr(config.data, split), f"data.{split}")
    if config.training.eval_interval and not config.data.valid:
        yield (
            "training.eval_interval is set and data.valid is empty; give validation sources or set "
            "it to 0"
        )


def _source_faults(sources: list[SourceConfig], path: str) -> Iterator[str]:
    names: dict[str, int] = {}
    for index, source in enumerate(sources):
        where = f"{path}.{index}"
        if not source.prefix:
            yield f"{where}.prefix is not given; write the path of .bin/.idx without the ending"
        if source.prefix.endswith((".bin", ".idx")):
            yield f"{where}.prefix ends in {source.prefix[-4:]}; leave the ending out"
        if not source.weight > 0:
            yield f"{where}.weight must be above 0, it is {source.weight}; or leave the source out"
        name = source.name or source.prefix.rstrip("/").rsplit("/", 1)[-1]
        if name in names:
            yield (
                f"{where} and {path}.{names[name]} are both reported as {name!r}; give one of them "
                "another name"
            )
        names[name] = index


def _alert_faults(alerts: AlertsConfig) -> Iterator[str]:
    variable = alerts.webhook_variable
    if variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        # Not shown: what stands here by mistake is the address, which is a secret.
        yield (
            "alerts.webhook_variable is no name of an environment variable; put the address into a variable "
            "and write its name here"
        )
    for kind in alerts.kinds:
        if kind not in ALERT_KINDS:
            yield f"alerts.kinds: {kind!r} is none; the nearest one is {nearest(kind, ALERT_KINDS)}"


def _diffusion_faults(config: RunConfig) -> Iterator[str]:
    diffusion, batch = config.diffusion, config.training.global_batch_size
    if diffusion.attention == "anneal" and not diffusion.anneal_steps:
        yield "diffusion.attention: anneal needs diffusion.anneal_steps above 0; give the steps"
    if diffusion.attention == "full" and diffusion.anneal_steps:
        yield (
            "diffusion.anneal_steps is set and diffusion.attention is full; set attention to "
            "anneal or the steps to 0"
        )
    if diffusion.complementary and batch % 2:
        yield (
            "diffusion.complementary needs an even training.global_batch_size (a mask and its "
            f"complement are two samples of one batch), it is {batch}; make it even"
        )
    if diffusion.objective == "ar":
        if not diffusion.shift:
            yield "diffusion.shift: false has no meaning under diffusion.objective: ar; leave it true"
        for name in ("complementary", "anneal_steps"):
            if getattr(diffusion, name):
                yield (
                    f"diffusion.{name} has no meaning under diffusion.objective: ar; leave it at "
                    "its default"
                )


def _sft_faults(config: RunConfig) -> Iterator[str]:
    sft, diffusion = config.sft, config.diffusion
    for name, cut in (("document_masks", "into documents"), ("random_length", "to random lengths")):
        if getattr(config.data, name):
            yield f"data.{name} cuts rows {cut}, and a sample of sft is one row; leave it out"
    if sft.task == "infill":
        if diffusion.objective == "ar" or diffusion.complementary:
            yield "sft.task: infill knows neither objective: ar nor complementary; leave both out"
        if not diffusion.shift:
            yield "sft.task: infill knows no diffusion.shift: false; leave it true"
        if diffusion.weight != "linear":
            yield (
                "sft.task: infill weighs by 1 - t; set diffusion.weight to linear, it is "
                f"{diffusion.weight}"
            )
        return
    if sft.pad != "none" and sft.truncation != "off":
        yield (
            f"sft.pad is {sft.pad}, but sft.truncation: {sft.truncation} decides how far answers are "
            "filled; set pad to none or truncation to off"
        )
    if diffusion.complementary and sft.truncation_group_size % 2:
        yield (
            f"sft.truncation_group_size is {sft.truncation_group_size}, which parts a sample from its "
            "complement (diffusion.complementary); make it even"
        )


def _rl_faults(config: RunConfig) -> Iterator[str]:
    rl, parallel = config.rl, config.parallel
    if not rl.problems:
        yield "rl.problems is empty; give at least one JSONL file of problems"
    if config.data.train or config.data.valid:
        yield "data.train and data.valid have no meaning in rl; give rl.problems and rl.valid"
    if config.training.eval_interval and not rl.valid:
        yield (
            "training.eval_interval is set and rl.valid is empty; give held-out problems or set it to 0"
        )
    if rl.t_low > rl.t_high:
        yield f"rl.t_low {rl.t_low} is above rl.t_high {rl.t_high}; give times in order"
    if rl.kl_coefficient and rl.ratio == "sequence":
        yield "rl.kl_coefficient is of tokens, and rl.ratio is sequence; set one of them back"
    if rl.judge_endpoints and rl.isolation != "auto":
        yield (
            f"rl.isolation {rl.isolation} is of this machine, and rl.judge_endpoints judge elsewhere; leave "
            "one of them out"
        )
    for endpoint in rl.judge_endpoints:
        if not endpoint.startswith(("http://", "https://")):
            yield f"rl.judge_endpoints has {endpoint!r}; give addresses such as http://host:8080"
    if config.diffusion.objective != "diffusion":
        yield "diffusion.objective is ar, and rl samples by opening masks; set it to diffusion"
    if not config.diffusion.shift:
        yield "diffusion.shift is false, and rl samples with the shift; leave it true"
    rows = 2 * rl.prompts_per_step * rl.group_size
    if config.training.global_batch_size not in (1, rows):
        yield (
            f"training.global_batch_size is {config.training.global_batch_size}, and an update of rl holds "
            f"2 x rl.prompts_per_step {rl.prompts_per_step} x rl.group_size {rl.group_size} = {rows} rows; "
            "leave it out"
        )
    yield from _rollout_faults(config)
    if config.data.new_stream:
        yield "data.new_stream has no meaning in rl, whose epochs have orders of their own; leave it out"
    if config.model.attention_dropout or config.model.hidden_dropout:
        yield "rl compares probabilities of two passes, which dropout makes differ; set both dropouts to 0"
    if parallel.overlap_param_gather:
        yield (
            "parallel.overlap_param_gather leaves weights to be gathered in the next training pass, and "
            "rollouts come before it; set it to false"
        )


def _rollout_faults(config: RunConfig) -> Iterator[str]:
    """What the sampler does not serve (model/states.py)."""
    rl, parallel = config.rl, config.parallel
    is_split = parallel.context_parallel_size > 1 or parallel.sequence_parallel
    if is_split or parallel.virtual_pipeline_model_parallel_size is not None:
        yield (
            "rl makes its rollouts on the training model, which the sampler takes without context, "
            "sequence and virtual pipeline parallelism; leave those out"
        )
    if config.model.layer_spec == "transformer_engine":
        yield "rl makes its rollouts with model.layer_spec local; set it to local"
    if rl.cache != "none" and parallel.pipeline_model_parallel_size > 1:
        yield "rl.cache is not served under pipeline parallelism; set it to none, or PP to 1"
    blocks = -(-rl.response_length // (rl.block_length or rl.response_length))
    if rl.steps and rl.steps < blocks:
        yield (
            f"rl.steps {rl.steps} is fewer than the {blocks} blocks of a response; give every block a step, "
            "or make rl.block_length longer"
        )
