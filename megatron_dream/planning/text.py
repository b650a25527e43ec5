"""A plan in the terminal, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from .advice import Advice
from .hardware import GIB
from .limits import scaling_limit
from .memory import MemoryParts
from .plan import MEMORY_ERROR, Plan
from .search import SearchResult, describe
from .step_time import StepParts

MEMORY_PARTS = tuple(MemoryParts.__dataclass_fields__)
STEP_PARTS = tuple(StepParts.__dataclass_fields__)
LABELS = {
    "outside": "context, NCCL",
    "tensor_parallel": "TP waits",
    "context_parallel": "CP waits",
    "pipeline": "pipeline waits",
    "data_parallel": "DP waits",
}


def plan_lines(plan: Plan) -> Iterator[str]:
    """One plan, line by line."""
    job, gpu = plan.job, plan.gpu
    yield f"{job.layout.world_size} x {gpu.name}, {job.precision}, {job.spec} layers"
    yield f"{job.layout.equation()}."
    yield ""
    yield from _memory_table(plan)
    yield ""
    yield from _step_lines(plan)
    yield ""
    yield from _save_lines(plan)


def _memory_table(plan: Plan) -> Iterator[str]:
    names = [LABELS.get(name, name) for name in MEMORY_PARTS]
    yield "GiB a rank   layers  " + "".join(f"{name:>15}" for name in names) + f"{'total':>9}"
    for stage, parts in enumerate(plan.stages):
        if _is_repeated(plan, stage):
            continue
        cells = "".join(f"{getattr(parts, name) / GIB:15.2f}" for name in MEMORY_PARTS)
        layers = sum(plan.job.chunks[stage])
        yield f"stage {stage:<6}{layers:>7}  {cells}{parts.total / GIB:9.2f}"
    need, have = plan.memory.total / GIB, plan.gpu.memory_gib
    verdict = "fits" if plan.fits else "does NOT fit"
    if plan.is_tight:
        verdict = (
            f"fits, but with less to spare than the model errs ({MEMORY_ERROR:.0%}): try it first"
        )
    yield f"Stage {plan.worst_stage} needs most: {need:.1f} of {have:.1f} GiB, {verdict}."


def _is_repeated(plan: Plan, stage: int) -> bool:
    """Whether a middle stage is like both of its neighbours in all but what is in flight."""
    return len(plan.stages) > 10 and 2 <= stage < len(plan.stages) - 2


def _step_lines(plan: Plan) -> Iterator[str]:
    step = plan.step
    shown = [
        f"{LABELS.get(name, name)} {getattr(step, name):.3f} ({getattr(step, name) / step.total:.0%})"
        for name in STEP_PARTS
        if getattr(step, name) / step.total >= 0.0005
    ]
    yield f"Step {step.total:.3f} s: " + ", ".join(shown) + "."
    yield (
        f"{plan.tokens_per_second:,.0f} tokens/s, {plan.tokens_per_second_per_gpu:,.0f} a GPU; "
        f"{plan.flops_per_token / 1e9:.1f} GFLOP a token, MFU {plan.mfu:.1%}; stages wait "
        f"{plan.bubble:.1%} of the pipeline's time."
    )
    yield (
        f"{plan.token_budget:,} tokens: {plan.days:.2f} days, {plan.gpu_hours:,.0f} GPU hours, without "
        "saves, validation and faults."
    )


def _save_lines(plan: Plan) -> Iterator[str]:
    for index, save in enumerate(plan.saves):
        words = "A save" if index == 0 else "Were it"
        yield (
            f"{words} {save.optimizer_format}: {save.disk_bytes / 1e9:,.0f} GB on disk; host memory "
            f"{save.host_bytes_per_rank / GIB:.1f} GiB a rank, {save.host_bytes_per_node / GIB:,.0f} a node "
            f"of {plan.gpu.host_memory_gib:,.0f}{'' if save.fits_host else ', which does NOT fit'}; training "
            f"stands still {save.stall_seconds:.1f} s, {save.async_stall_seconds:.1f} s with "
            f"checkpoint.async_save."
        )


def advice_lines(
    advice: tuple[Advice, ...], batches: tuple[int, ...], num_gpus: int
) -> Iterator[str]:
    """What could be changed."""
    for change in advice:
        yield (
            f"Faster: {change.change} (a step {change.seconds:.3f} s shorter, {change.share:.1%}; memory "
            f"{change.memory_bytes / GIB:+.1f} GiB)."
        )
    if batches:
        sizes = " or ".join(f"{size:,}" for size in batches)
        yield (
            f"More layouts: {num_gpus} GPUs do not divide the global batch; with "
            f"--training.global_batch_size {sizes} they would."
        )


def search_lines(result: SearchResult, top: int) -> Iterator[str]:
    """The best layouts, and why others are none."""
    yield f"{len(result.ranked)} layouts fit, {len(result.rejected)} do not, the best first:"
    yield f"{'step s':>9}{'tokens/s':>12}{'MFU':>8}{'GiB':>7}{'days':>8}  layout"
    for found in result.ranked[:top]:
        yield (
            f"{found.step.total:9.3f}{found.tokens_per_second:12,.0f}{found.mfu:8.1%}"
            f"{found.memory.total / GIB:7.1f}{found.days:8.2f}  {describe(found.job)}"
            f"{' (tight)' if found.is_tight else ''}"
        )
    safe = next((found for found in result.ranked if not found.is_tight), None)
    if safe is not None and result.ranked[0].is_tight:
        yield (
            f"The fastest with {MEMORY_ERROR:.0%} of memory to spare: {describe(safe.job)}, step "
            f"{safe.step.total:.3f} s, {safe.memory.total / GIB:.1f} GiB."
        )
    for rejected in result.rejected[: max(3, top // 4)]:
        yield f"Does not fit: {rejected.layout}: {rejected.reason}."
    for sentence, count in result.illegal:
        yield f"Not legal, {count} layouts, such as: {sentence}"


def as_json(
    plan: Plan | None,
    advice: tuple[Advice, ...],
    result: SearchResult | None,
) -> dict[str, Any]:
    """Everything a script may want; bytes, seconds, tokens."""
    answer: dict[str, Any] = {}
    if plan is not None:
        answer["plan"] = plan_json(plan)
        answer["limit"] = dataclasses.asdict(scaling_limit(plan.job.layout))
        answer["advice"] = [dataclasses.asdict(change) for change in advice]
    if result is not None:
        answer["search"] = {
            "ranked": [plan_json(found) for found in result.ranked],
            "rejected": [dataclasses.asdict(found) for found in result.rejected],
            "illegal": [{"such_as": text, "count": count} for text, count in result.illegal],
        }
    return answer


def plan_json(plan: Plan) -> dict[str, Any]:
    """One plan."""
    names = ("tokens_per_second", "tokens_per_second_per_gpu", "mfu", "days", "gpu_hours")
    return {
        "layout": describe(plan.job),
        "sizes": dataclasses.asdict(plan.job.layout),
        "layers": [list(chunks) for chunks in plan.job.chunks],
        "precision": plan.job.precision,
        "gpu": plan.gpu.name,
        "fits": plan.fits,
        "is_tight": plan.is_tight,
        "worst_stage": plan.worst_stage,
        "memory": [_with_total(parts) for parts in plan.stages],
        "step": _with_total(plan.step),
        "bubble": plan.bubble,
        "flops_per_token": plan.flops_per_token,
        "token_budget": plan.token_budget,
        **{name: getattr(plan, name) for name in names},
        "saves": [dataclasses.asdict(save) for save in plan.saves],
    }


def _with_total(parts: MemoryParts | StepParts) -> dict[str, float]:
    return {**dataclasses.asdict(parts), "total": parts.total}
