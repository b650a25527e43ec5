"""The bill of one run on one layout: ``plan`` puts memory, time and saves together."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.presets import resolve_model
from ..config.schema import RunConfig
from ..config.validate import check_shape
from ..errors import ConfigError
from ..training.throughput import flops_per_token
from .efficiency import DEFAULT, Efficiency
from .hardware import Gpu
from .job import Job, Precision, with_precision
from .memory import MemoryParts, stage_memory
from .saving import SaveCost, save_costs
from .schedule import bubble_share
from .step_time import StepParts, stage_seconds, step_seconds

SECONDS_A_DAY = 86_400
MEMORY_ERROR = 0.1  # what predictions of memory are held against (docs/results/plan_published.md)


@dataclass(frozen=True)
class Plan:
    """What a run needs on one layout."""

    job: Job
    gpu: Gpu
    stages: tuple[MemoryParts, ...]  # of each pipeline stage
    step: StepParts
    stage_seconds: tuple[float, ...]  # of one micro-batch, each stage
    bubble: float  # share of the pipeline's time in which stages wait
    saves: tuple[SaveCost, ...]  # in the format that is chosen, then in the other
    flops_per_token: float  # forward and backward, as MFU counts them
    token_budget: int

    @property
    def worst_stage(self) -> int:
        """The stage that needs the most memory."""
        return max(range(len(self.stages)), key=lambda stage: self.stages[stage].total)

    @property
    def memory(self) -> MemoryParts:
        """Of the worst stage."""
        return self.stages[self.worst_stage]

    @property
    def fits(self) -> bool:
        """Whether the worst stage fits the GPU."""
        return self.memory.total <= self.gpu.memory_bytes

    @property
    def is_tight(self) -> bool:
        """Whether it fits by less than the model is wrong (docs/planning.md: errors)."""
        return self.fits and self.memory.total * (1 + MEMORY_ERROR) > self.gpu.memory_bytes

    @property
    def tokens_per_second(self) -> float:
        """Of the whole job."""
        return self.job.tokens_per_step / self.step.total

    @property
    def tokens_per_second_per_gpu(self) -> float:
        """Of one GPU."""
        return self.tokens_per_second / self.job.layout.world_size

    @property
    def mfu(self) -> float:
        """Share of the peak at bf16, or at FP8 where products are in FP8 (docs/training.md)."""
        fp8 = self.job.precision == "fp8"
        peak = self.gpu.peak_fp8_tflops if fp8 else self.gpu.peak_bf16_tflops
        return self.tokens_per_second_per_gpu * self.flops_per_token / (peak * 1e12)

    @property
    def days(self) -> float:
        """Of training on the token budget, without saves, validation and faults."""
        return self.token_budget / self.tokens_per_second / SECONDS_A_DAY

    @property
    def gpu_hours(self) -> float:
        """Of the same."""
        return self.days * 24 * self.job.layout.world_size


def plan(
    config: RunConfig,
    num_gpus: int,
    gpu: Gpu,
    *,
    precision: Precision | None = None,
    token_budget: int | None = None,
    efficiency: Efficiency = DEFAULT,
    stage: str = "pretrain",
) -> Plan:
    """Predict what a run needs.

    Args:
        config: the run's, as ``load_config`` gives it.
        num_gpus: of the job.
        gpu: which, see ``hardware.find_gpu``.
        precision: in place of the configuration's, such as ``fp8``.
        token_budget: of the whole run; None: ``training.train_steps`` global batches.
        efficiency: shares of the peaks that are reached.
        stage: what the run is for.

    Raises:
        LayoutError: the layout does not fit the model, the batch or the GPUs.
        ConfigError: a field out of its range or against another, FP8 on a GPU without it, or an
            incomplete model.
    """
    check_shape(with_precision(config, precision), stage)
    return plan_checked(
        config,
        num_gpus,
        gpu,
        precision=precision,
        token_budget=token_budget,
        efficiency=efficiency,
        stage=stage,
    )


def plan_checked(
    config: RunConfig,
    num_gpus: int,
    gpu: Gpu,
    *,
    precision: Precision | None,
    token_budget: int | None,
    efficiency: Efficiency,
    stage: str,
) -> Plan:
    """``plan`` of a configuration whose fields were checked, which a search has by the thousand."""
    job = Job.of(config, num_gpus, precision=precision, stage=stage)
    check_precision(job.precision, gpu)
    budget = token_budget or config.training.train_steps * job.tokens_per_step
    return plan_job(
        job,
        gpu,
        token_budget=budget,
        flops_per_token=flops_per_token(
            resolve_model(config.model), config.diffusion, job.sequence_length
        ),
        optimizer_format=config.checkpoint.optimizer_format,
        efficiency=efficiency,
    )


def plan_job(
    job: Job,
    gpu: Gpu,
    *,
    token_budget: int,
    flops_per_token: float,
    optimizer_format: str = "auto",
    efficiency: Efficiency = DEFAULT,
) -> Plan:
    """Predict what a job needs; see ``plan``."""
    works = [stage_seconds(job, stage, gpu, efficiency) for stage in range(job.layout.pp)]
    totals = tuple(forward.total + backward.total for forward, backward in works)
    return Plan(
        job=job,
        gpu=gpu,
        stages=tuple(stage_memory(job, stage, efficiency) for stage in range(job.layout.pp)),
        step=step_seconds(job, gpu, efficiency),
        stage_seconds=totals,
        bubble=bubble_share(totals, job.layout.num_microbatches, job.layout.vp),
        saves=save_costs(job, gpu, efficiency, optimizer_format),
        flops_per_token=flops_per_token,
        token_budget=token_budget,
    )


def check_precision(precision: Precision, gpu: Gpu) -> None:
    """Refuse FP8 where the GPU has none."""
    if precision == "fp8" and not gpu.peak_fp8_tflops:
        raise ConfigError(f"{gpu.name} has no FP8; plan for bf16, or give another --gpu.")
