"""All legal layouts of a run on a number of GPUs, ranked by predicted tokens a second.

Recomputation and more tensors on other ranks only cost time where all fits without: they are tried
where it does not. Nothing else is left out beforehand.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..config.presets import resolve_model
from ..config.schema import ParallelConfig, RunConfig, TrainingConfig
from ..config.validate import check_shape
from ..errors import LayoutError
from .efficiency import DEFAULT, Efficiency
from .hardware import GIB, Gpu
from .job import Job, Precision, with_precision
from .memory import worst_stage
from .plan import Plan, plan_checked

MICRO_BATCHES = (1, 2, 4, 8, 16)
_RECOMPUTE: tuple[dict[str, object], ...] = (
    {"recompute": "none"},
    {"recompute": "selective", "recompute_modules": ["mlp"]},
    {"recompute": "full"},
)
_SHOWN = 40  # characters of a reason that make it one with others


@dataclass(frozen=True)
class Rejected:
    """A layout that does not fit the GPU's memory, or the host's when it saves."""

    layout: str
    reason: str
    memory_bytes: float


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    ranked: tuple[Plan, ...]  # that fit, the fastest first
    rejected: tuple[Rejected, ...]  # that do not, the nearest to fitting first
    illegal: tuple[tuple[str, int], ...]  # an example's sentence, and how many are like it


def describe(job: Job) -> str:
    """A layout in a few words, such as ``TP 2 SP PP 4 VP 7 DP 12 micro 2``."""
    layout = job.layout
    words = [f"TP {layout.tp}"]
    words += ["SP"] if job.sequence_parallel else []
    words += [f"PP {layout.pp}"] if layout.pp > 1 else []
    words += [f"VP {layout.vp}"] if layout.vp > 1 else []
    if layout.pp > 1 and len({sum(chunks) for chunks in job.chunks}) > 1:
        words.append("layers " + "+".join(str(sum(chunks)) for chunks in job.chunks))
    words += [f"CP {layout.cp}"] if layout.cp > 1 else []
    words += [f"DP {layout.dp}", f"micro {layout.micro_batch_size}"]
    words += [f"recompute {job.recompute.words()}"] if job.recompute.granularity != "none" else []
    words += [f"instances {job.states.instances}"] if job.states.instances > 1 else []
    return " ".join(words)


def search(
    config: RunConfig,
    num_gpus: int,
    gpu: Gpu,
    *,
    precision: Precision | None = None,
    token_budget: int | None = None,
    efficiency: Efficiency = DEFAULT,
    stage: str = "pretrain",
) -> SearchResult:
    """Plan every legal layout; arguments are ``plan``'s.

    The configuration's own layout is only a starting point; its model, batch, precision, optimizer and
    overlaps stay.
    """
    check_shape(with_precision(config, precision), stage)
    ranked: list[Plan] = []
    rejected: list[Rejected] = []
    illegal: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for base in _layouts(config, num_gpus, gpu):
        for recompute in _RECOMPUTE:
            candidate = _with_training(base, recompute)
            try:
                job = Job.of(candidate, num_gpus, precision=precision, stage=stage)
            except LayoutError as error:
                reason = str(error).split(" [")[0]
                key = "".join(letter for letter in reason if not letter.isdigit())[:_SHOWN]
                illegal[key] += 1
                examples.setdefault(key, reason)
                break
            if problem := _memory_problem(job, gpu, efficiency):
                rejected.append(problem)
                continue
            ranked.append(
                plan_checked(
                    candidate,
                    num_gpus,
                    gpu,
                    precision=precision,
                    token_budget=token_budget,
                    efficiency=efficiency,
                    stage=stage,
                )
            )
            break
    ranked.sort(key=lambda found: (-found.tokens_per_second, found.memory.total))
    rejected.sort(key=lambda found: found.memory_bytes)
    return SearchResult(
        tuple(ranked),
        tuple(rejected),
        tuple((examples[key], count) for key, count in illegal.most_common()),
    )


def _memory_problem(job: Job, gpu: Gpu, efficiency: Efficiency) -> Rejected | None:
    stage, parts = worst_stage(job, efficiency)
    if parts.total <= gpu.memory_bytes:
        return None
    reason = (
        f"stage {stage} needs {parts.total / GIB:.1f} GiB, {gpu.name} has {gpu.memory_gib:.1f}; "
        f"{_largest(parts)}"
    )
    return Rejected(describe(job), reason, parts.total)


def _largest(parts: object) -> str:
    values = {name: getattr(parts, name) for name in parts.__dataclass_fields__}  # type: ignore[attr-defined]
    name = max(values, key=lambda key: values[key])
    return f"most of it {name}, {values[name] / GIB:.1f}"


def _with_training(config: RunConfig, values: dict[str, object]) -> RunConfig:
    default = TrainingConfig()
    changed = {
        "recompute_modules": default.recompute_modules,
        "recompute_method": default.recompute_method,
        "recompute_num_layers": default.recompute_num_layers,
        **values,
    }
    training = dataclasses.replace(config.training, **changed)  # type: ignore[arg-type]
    return dataclasses.replace(config, training=training)


def _layouts(config: RunConfig, num_gpus: int, gpu: Gpu) -> Iterator[RunConfig]:
    """Every layout without a view to whether it is legal, recomputation apart; TP stays inside a node."""
    model = resolve_model(config.model)
    config = dataclasses.replace(config, model=model)
    for tp in _divisors(num_gpus, most=gpu.gpus_per_node):
        for cp in _divisors(num_gpus // tp):
            if config.data.sequence_length % (2 * cp if cp > 1 else 1):
                continue
            for pp in _divisors(num_gpus // (tp * cp), most=model.num_layers):
                for split in _splits(pp, model.num_layers):
                    yield from _batches(config, num_gpus, gpu, tp, cp, pp, split)


def _batches(
    config: RunConfig,
    num_gpus: int,
    gpu: Gpu,
    tp: int,
    cp: int,
    pp: int,
    split: dict[str, int | None],
) -> Iterator[RunConfig]:
    replicas = num_gpus // (tp * pp)
    for sequence_parallel in (False, True) if tp > 1 else (False,):
        for instances in _instances(config, replicas, num_gpus // gpu.gpus_per_node):
            parallel = dataclasses.replace(
                config.parallel,
                tensor_model_parallel_size=tp,
                pipeline_model_parallel_size=pp,
                context_parallel_size=cp,
                sequence_parallel=sequence_parallel,
                num_distributed_optimizer_instances=instances,
                account_for_embedding_in_pipeline_split=False,
                account_for_loss_in_pipeline_split=False,
                **split,  # type: ignore[arg-type]
            )
            for micro in MICRO_BATCHES:
                training = dataclasses.replace(
                    config.training, micro_batch_size=micro, eval_interval=0
                )
                yield dataclasses.replace(config, parallel=parallel, training=training)


def _splits(pp: int, num_layers: int) -> Iterator[dict[str, int | None]]:
    """Ways to lay layers on stages: even, interleaved, fewer in the last stage, which has the head."""
    names = (
        "virtual_pipeline_model_parallel_size",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
    )
    none: dict[str, int | None] = dict.fromkeys(names)
    if pp == 1:
        yield none
        return
    if num_layers % pp == 0:
        for vp in _divisors(num_layers // pp):
            yield {**none, names[0]: vp if vp > 1 else None}
    even = -(-num_layers // pp)
    for middle in (even, even + 1):
        last = num_layers - (pp - 1) * middle
        if 1 <= last < middle:
            for vp in _divisors(middle):
                if last % vp == 0:
                    yield {**none, names[0]: vp if vp > 1 else None, names[2]: last}


def _instances(config: RunConfig, replicas: int, num_nodes: int) -> list[int]:
    """One optimizer over all ranks, or one on each node."""
    parallel: ParallelConfig = config.parallel
    if not parallel.use_distributed_optimizer or num_nodes < 2 or replicas % num_nodes:
        return [1]
    return [1, num_nodes] if replicas > num_nodes else [1]


def _divisors(number: int, most: int | None = None) -> list[int]:
    most = number if most is None else min(most, number)
    return [value for value in range(1, most + 1) if number % value == 0]
