"""What ``make gpu-bench`` runs: by device, number of devices and their memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from megatron_dream.config.presets import PRESETS, resolve_model
from megatron_dream.config.schema import ModelConfig
from megatron_dream.planning.hardware import GIB, GPUS, Gpu
from megatron_dream.planning.job import Job
from megatron_dream.planning.memory import stage_memory

from .runner import Case
from .trainee import config_of

SIZES = {"0.5B": "qwen2.5-coder-0.5b", "1.5B": "qwen2.5-coder-1.5b", "7B": "qwen2.5-coder-7b"}
LENGTHS = (2048, 4096)
TOKENS_PER_GPU = 32_768  # of a step
MEMORY_SHARE = 0.88  # of the device, by the plan, that a case is laid out for
# Shapes that a laptop trains: the same code, no claim about speed on a GPU.
CPU_SHAPES = {
    "2M": (2, 128, 4, 2, 352, 2048),
    "6M": (4, 256, 4, 2, 704, 4096),
}
CPU_LENGTHS = (64, 128)
CPU_TOKENS = 512


@dataclass(frozen=True)
class Plan:
    """The cases of a machine, and what was left out or cut, in sentences."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...]


def gpu_of(facts: dict[str, Any]) -> Gpu:
    """The planner's numbers of the device that was found; memory as the driver reports it."""
    name = facts["name"]
    known = next((gpu for key, gpu in GPUS.items() if key.split("-")[0] in name), GPUS["H100"])
    return dataclasses.replace(known, memory_gib=facts["memory_bytes"] / GIB)


def training_fields(
    model: dict[str, Any], length: int, *, global_rows: int, recipe: str, count: int
) -> dict[str, Any]:
    """Fields of a bench run: bf16 or FP8, distributed optimizer, all rows' noise by the defaults."""
    overlaps = count > 1
    fields = {
        **model,
        "data.sequence_length": length,
        "training.global_batch_size": global_rows,
        "training.train_steps": 1000,
        "training.precision": "bf16",
        "model.head_chunk_rows": 4096,
        "parallel.overlap_grad_reduce": overlaps,
        "parallel.overlap_param_gather": overlaps,
    }
    return fields if recipe == "none" else {**fields, "fp8.recipe": recipe}


def fits(fields: dict[str, Any], count: int, gpu: Gpu) -> bool:
    """Whether the plan says so, with room."""
    job = Job.of(config_of({**fields, "model.layer_spec": "transformer_engine"}), count)
    worst = max(stage_memory(job, stage).total for stage in range(job.layout.pp))
    return worst <= MEMORY_SHARE * gpu.memory_bytes


def attempts_of(
    fields: dict[str, Any], length: int, count: int, gpu: Gpu
) -> tuple[dict[str, Any], ...]:
    """Micro-batches from the largest that the plan thinks to fit down to 1, then recomputation."""
    rows = TOKENS_PER_GPU // length
    sizes = [size for size in (16, 8, 4, 2, 1) if size <= rows and rows % size == 0]
    fitting = [s for s in sizes if fits({**fields, "training.micro_batch_size": s}, count, gpu)]
    first = sizes.index(fitting[0]) if fitting else len(sizes) - 1
    # More rows than 16,384 tokens gain nothing: the products are large enough.
    first = max(first, next((i for i, s in enumerate(sizes) if s * length <= 16_384), first))
    tries = [{"training.micro_batch_size": size} for size in sizes[first:]]
    return (*tries, {"training.micro_batch_size": 1, "training.recompute": "full"})


def shape_fields(preset: str, layers: int | None = None) -> dict[str, Any]:
    """A preset's shape as fields; with fewer layers where asked for."""
    model = resolve_model(ModelConfig(preset=preset))
    names = (
        "num_layers hidden_size num_attention_heads num_query_groups ffn_hidden_size vocab_size "
        "tie_word_embeddings"
    ).split()
    fields = {f"model.{name}": getattr(model, name) for name in names}
    return fields if layers is None else {**fields, "model.num_layers": layers}


def size_fields(
    size: str, length: int, count: int, gpu: Gpu
) -> tuple[str, dict[str, Any], str | None]:
    """(name, fields, note): a size, or its shape with as many layers as the plan says to fit.

    The optimizer of 16 bytes a parameter stays as it is: a smaller one would be another measurement.
    """
    preset = SIZES[size]
    whole = PRESETS[preset]["num_layers"]
    for layers in range(whole, 0, -1):
        shape = shape_fields(preset, layers)
        fields = training_fields(shape, length, global_rows=count, recipe="none", count=count)
        for recompute in ("none", "full"):
            extra = {"training.micro_batch_size": 1, "training.recompute": recompute}
            if fits({**fields, **extra}, count, gpu):
                if layers == whole:
                    return size, shape, None
                name = f"{size}-{layers}of{whole}"
                return (
                    name,
                    shape,
                    (
                        f"{size} at {length}: {gpu.memory_gib:.0f} GiB x {count} hold {layers} of its "
                        f"{whole} layers (by the plan, optimizer included); measured with {layers}."
                    ),
                )
    return size, {}, f"{size} at {length}: not even one layer fits by the plan; left out."


def gpu_cases(facts: dict[str, Any], count: int, seconds: float, recipes: tuple[str, ...]) -> Plan:
    """All cases of a node, what matters most first, so that a short budget has it."""
    gpu, notes = gpu_of(facts), []
    has_fp8 = tuple(facts["capability"]) >= (8, 9) and facts["has_transformer_engine"]
    if not has_fp8:
        notes.append("FP8 is left out: it needs Transformer Engine and compute capability 8.9.")
    if gpu.name.split()[0] not in facts["name"]:
        notes.append(
            f"{facts['name']} is not in the planner's table; sizes are laid out as for {gpu.name}."
        )
    cases = [_rates_case(count)]
    for size in ("7B", "1.5B", "0.5B"):
        for length in LENGTHS:
            name, shape, note = size_fields(size, length, count, gpu)
            notes += [note] if note else []
            if shape:
                kinds = ("none", *recipes[:1]) if has_fp8 else ("none",)
                cases += _size_cases(name, shape, length, kinds, count, gpu, seconds)
    cases += _sampler_cases(gpu, has_fp8)
    if count > 1:
        cases += _tensor_parallel_cases(count, gpu, seconds)
    if has_fp8:
        for recipe in recipes[1:]:
            name, shape, _ = size_fields("7B", 4096, count, gpu)
            cases += _size_cases(name, shape, 4096, (recipe,), count, gpu, seconds, has_plain=False)
    return Plan(tuple(cases), tuple(notes))


def _rates_case(count: int) -> Case:
    return Case("rates", "rates_job:rates", {"seconds": 1.0}, processes=count, seconds=240)


def _size_cases(
    name: str,
    shape: dict[str, Any],
    length: int,
    kinds: tuple[str, ...],
    count: int,
    gpu: Gpu,
    seconds: float,
    has_plain: bool = True,
) -> list[Case]:
    rows = TOKENS_PER_GPU // length * count
    found = []
    for recipe in kinds:
        fields = training_fields(shape, length, global_rows=rows, recipe=recipe, count=count)
        tries = attempts_of(fields, length, count, gpu)
        kind = "bf16" if recipe == "none" else f"fp8-{recipe}"
        arguments = {"fields": fields, "seconds": seconds}
        found.append(
            Case(
                f"train-{name}-{length}-{kind}", "train_job:train", arguments, count, attempts=tries
            )
        )
    if has_plain:
        fields = training_fields(shape, length, global_rows=rows, recipe="none", count=count)
        tries = attempts_of(fields, length, count, gpu)
        smaller = tuple(t for t in tries if "training.recompute" not in t)
        arguments = {"fields": fields, "seconds": seconds}
        found.append(
            Case(f"plain-{name}-{length}-bf16", "train_job:plain", arguments, count, 600, smaller)
        )
    return found


def _tensor_parallel_cases(count: int, gpu: Gpu, seconds: float) -> list[Case]:
    """The 7B again on TP 2 with sequence parallelism: more memory for micro-batches, more to say."""
    name, shape, _ = size_fields("7B", 4096, count, gpu)
    split = {"parallel.tensor_model_parallel_size": 2, "parallel.sequence_parallel": True}
    return [
        dataclasses.replace(case, name=case.name.replace("train-7B", "train-7B-TP2"))
        for case in _size_cases(
            name, {**shape, **split}, 4096, ("none",), count, gpu, seconds, has_plain=False
        )
    ]


def _sampler_cases(gpu: Gpu, has_fp8: bool) -> list[Case]:
    """On one GPU, where the weights fit beside a cache."""
    found = []
    for size in ("7B", "0.5B"):
        fields = shape_fields(SIZES[size])
        for rows in (1, 8):
            arguments = {"fields": fields, "rows": rows, "steps": [256, 128, 64]}
            found.append(Case(f"sampler-{size}-rows{rows}", "sampler_job:sampler", arguments))
        low = {"fields": fields, "rows": 1, "steps": [256, 128, 64], "weights": "fp8"}
        if has_fp8:
            found.append(Case(f"sampler-{size}-rows1-fp8", "sampler_job:sampler", low))
    return [case for case in found if gpu.memory_gib > 20 or "7B" not in case.name]


def cpu_cases(seconds: float) -> Plan:
    """The kit's own half: tiny shapes, the local spec, fp32 and bf16."""
    cases = [Case("rates", "rates_job:rates", {"seconds": seconds / 20}, seconds=240)]
    for name, shape in CPU_SHAPES.items():
        fields = _cpu_fields(shape)
        for length in CPU_LENGTHS:
            for precision in ("fp32", "bf16"):
                own = {
                    **fields,
                    "data.sequence_length": length,
                    "training.precision": precision,
                    "training.global_batch_size": CPU_TOKENS // length,
                    "training.micro_batch_size": CPU_TOKENS // length // 2,
                }
                quick = {"fields": own, "seconds": seconds, "warmup": 2, "profiled_steps": 1}
                train = {**quick, "workers": 0}
                cases.append(Case(f"train-{name}-{length}-{precision}", "train_job:train", train))
                if precision == "fp32":
                    cases.append(Case(f"plain-{name}-{length}-fp32", "train_job:plain", quick))
    fields = _cpu_fields(CPU_SHAPES["2M"])
    arguments = {"fields": fields, "precision": "fp32", "new": 32, "prompt": 16, "block": 16}
    cases.append(Case("sampler-2M-rows1", "sampler_job:sampler", {**arguments, "steps": [32, 16]}))
    note = (
        "No GPU is used: tiny shapes on the CPU, which test the kit and claim nothing about a GPU."
    )
    return Plan(tuple(cases), (note,))


def _cpu_fields(shape: tuple[int, ...]) -> dict[str, Any]:
    layers, hidden, heads, groups, ffn, vocab = shape
    return {
        "model.num_layers": layers,
        "model.hidden_size": hidden,
        "model.num_attention_heads": heads,
        "model.num_query_groups": groups,
        "model.ffn_hidden_size": ffn,
        "model.vocab_size": vocab,
        "model.tie_word_embeddings": True,
        "model.layer_spec": "local",
        "training.train_steps": 1000,
    }
