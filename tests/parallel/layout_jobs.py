"""Jobs of test_layouts.py, run by the ranks of the worker pool: one model, one batch, any layout."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from megatron_dream import parallel
from megatron_dream.config.schema import (
    DiffusionConfig,
    ModelConfig,
    ParallelConfig,
    RunConfig,
    SftConfig,
)

SEQUENCE, GLOBAL_BATCH, VOCAB = 32, 8, 101


@dataclasses.dataclass
class Case:
    """One configuration of a training step."""

    parallel: dict[str, Any] = dataclasses.field(default_factory=dict)
    diffusion: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: str = "plain"  # plain | documents | padding | one_token | empty | answers
    sft: dict[str, Any] = dataclasses.field(default_factory=dict)  # of answers
    global_batch_size: int = GLOBAL_BATCH
    micro_batch_size: int = 1
    steps: int = 0
    fixed_t: float | None = None  # every row's time
    at_step: int = 0  # of a single step: what annealing goes by
    seed: int = 0
    packs: bool = False  # rows as one sequence of segments


def run_config(case: Case) -> RunConfig:
    model = {
        "num_layers": 4,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "ffn_hidden_size": 48,
        "vocab_size": VOCAB,
        "layer_spec": "local",
        "head_chunk_rows": 8,
        "init_method_std": 0.2,
        **case.model,
    }
    config = RunConfig(
        model=ModelConfig(**model),
        parallel=ParallelConfig(**case.parallel),
        diffusion=DiffusionConfig(**case.diffusion),
    )
    config.training.precision = "fp32"
    config.training.train_steps = max(case.steps, 2)
    config.training.micro_batch_size = case.micro_batch_size
    config.training.global_batch_size = case.global_batch_size
    config.optimizer.lr = 1e-3
    config.optimizer.lr_warmup_fraction = 0.0
    for section in ("training", "optimizer"):
        for name, value in getattr(case, section).items():
            setattr(getattr(config, section), name, value)
    return config


def fixed_time(t: float) -> Any:
    """Noise whose every row has time ``t``."""
    from megatron_dream.diffusion.noise import NoiseStream

    class FixedTime(NoiseStream):
        def time(self, n: int, **_: Any) -> float:
            return t

    return FixedTime(0, "pretrain", "train")


class RandomAnswers:
    """Prompts of 1 to 11 tokens and answers of 1 to 20, by number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 1 << 20

    def lengths(self, n: int) -> tuple[int, int]:
        generator = np.random.default_rng([self.seed, n])
        return int(generator.integers(1, 12)), int(generator.integers(1, 21))

    def __getitem__(self, n: int) -> tuple[Any, Any, int]:
        prompt, response = self.lengths(n)
        generator = np.random.default_rng([self.seed, n, 1])
        tokens = generator.integers(0, VOCAB - 2, prompt + response).astype(np.int32)
        return tokens[:prompt], tokens[prompt:], 0


def stream_of(case: Case) -> Any:
    """The case's rows by ordinal."""
    if case.rows != "answers":
        return RandomRows(case)
    from megatron_dream.config.schema import DataConfig
    from megatron_dream.data.sft.stream import SftStream

    return SftStream(
        RandomAnswers(case.seed),
        DataConfig(sequence_length=SEQUENCE, seed=case.seed),
        DiffusionConfig(**case.diffusion),
        SftConfig(**case.sft),
        mask_id=VOCAB - 1,
        pad_id=VOCAB - 2,
        end_id=VOCAB - 2,
        group_size=case.sft.get("truncation_group_size") or case.global_batch_size,
    )


class RandomRows:
    """A stream of random rows through the product's own ``make_row``, by ordinal."""

    pad_id, has_one_width = 0, True

    def __init__(self, case: Case) -> None:
        from megatron_dream.diffusion.noise import NoiseStream

        self.case = case
        self.diffusion = DiffusionConfig(**case.diffusion)
        self.noise = NoiseStream(case.seed, "pretrain", "train")
        if case.fixed_t is not None:
            self.noise = fixed_time(case.fixed_t)
        self.sequence_length = SEQUENCE
        self.has_whole_rows = case.rows in ("plain", "empty")

    def __len__(self) -> int:
        return 1 << 20

    def segments(self, ordinal: int) -> tuple[list[int], int]:
        """(segment lengths, dead tokens at the end) of a row."""
        if self.case.rows == "documents":
            return [5 + ordinal % 7, 9, SEQUENCE - 14 - ordinal % 7], 0
        if self.case.rows == "padding":
            dead = 4 + 3 * (ordinal % 5)
            return [SEQUENCE - dead], dead
        if self.case.rows == "one_token" and ordinal % 3 == 0:
            return [1], SEQUENCE - 1
        return [SEQUENCE], 0

    def __getitem__(self, ordinal: int) -> Any:
        from megatron_dream.data.stream import make_row

        generator = np.random.default_rng([self.case.seed, ordinal])
        tokens = generator.integers(0, VOCAB - 1, SEQUENCE).astype(np.int32)
        lengths, dead = self.segments(ordinal)
        unmaskable = self.case.rows == "empty" and ordinal % 2 == 0
        return make_row(
            tokens,
            lengths,
            dead,
            ordinal,
            noise=self.noise,
            diffusion=self.diffusion,
            mask_id=VOCAB - 1,
            is_maskable=np.zeros(SEQUENCE, dtype=bool) if unmaskable else None,
        )

    def flags(self, ordinal: int) -> Any:
        from megatron_dream.diffusion.rows import row_flags, segment_starts

        lengths, dead = self.segments(ordinal)
        return row_flags(segment_starts(lengths, SEQUENCE, dead), dead)


class Run:
    """A model on one layout with everything a step needs."""

    def __init__(self, case: Case) -> None:
        from megatron_dream.config.layout import resolve_layout
        from megatron_dream.model.build import build_model
        from megatron_dream.training.optimizer import (
            build_optimizer,
            build_scheduler,
            wrap_data_parallel,
        )

        self.case = case
        self.config = run_config(case)
        self.layout = resolve_layout(self.config, parallel.launched_world_size())
        self.ranks = parallel.start(self.config.parallel)
        self.stream = stream_of(case)
        chunks = build_model(
            self.config.model,
            self.config.parallel,
            self.config.training,
            self.ranks,
            objective=self.config.diffusion.objective,
            variable_lengths=not self.stream.has_one_width or (case.packs and self.layout.cp > 1),
        )
        self.model = wrap_data_parallel(chunks, self.config)
        self.optimizer = build_optimizer(self.model, self.config)
        self.scheduler = build_scheduler(self.optimizer, self.config)

    def iterators(self, consumed: int = 0) -> list[Any]:
        from megatron_dream.training.batches import micro_batch_iterators

        count = self.layout.num_microbatches
        return micro_batch_iterators(
            self.stream, self.ranks, self.layout, consumed, count, packs=self.case.packs
        )

    def forward_backward(
        self, iterators: list[Any], step: int = 0, num_microbatches: int | None = None
    ) -> Any:
        from megatron_dream.training.metrics import StepReport
        from megatron_dream.training.step import StepRunner

        runner = StepRunner(
            self.model,
            self.config.diffusion,
            self.ranks,
            micro_batch_size=self.layout.micro_batch_size,
            sequence_length=SEQUENCE,
            num_sources=1,
            packs=self.case.packs,
        )
        for chunk in self.model:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        return StepReport.of(
            runner.run(iterators, num_microbatches or self.layout.num_microbatches, step=step),
            ["random"],
        )

    def tensors(self, attribute: str) -> dict[str, Any]:
        """``data`` or ``main_grad`` of every parameter by global name, with how it is cut."""
        from megatron_dream.checkpoint.state import unwrap
        from megatron_dream.model.initialize import global_parameters

        found = {}
        for chunk in self.model:
            for name, parameter in global_parameters(unwrap(chunk)):
                is_cut = getattr(parameter, "tensor_model_parallel", False)
                axis = parameter.partition_dim if is_cut else None
                value = getattr(parameter, attribute).detach().double().numpy().copy()
                found[name] = (axis, value)
        return found


def gradients(case: Case) -> dict[str, Any]:
    """Loss, report, initial weights and gradients of one global batch."""
    run = Run(case)
    weights = run.tensors("data")
    report = run.forward_backward(run.iterators(), case.at_step)
    is_first = run.ranks.dp_rank == 0 and run.ranks.cp_rank == 0
    return {
        "report": report.as_dict(),
        "tp_rank": run.ranks.tp_rank,
        "weights": weights if is_first else {},
        "gradients": run.tensors("main_grad") if is_first else {},
    }


def gradients_by_document(case: Case) -> dict[str, Any]:
    """The same of one process that makes a forward pass for each document, which sees nothing else."""
    import torch

    run = Run(dataclasses.replace(case, packs=False, parallel={"use_distributed_optimizer": False}))
    documents = []
    for batch in run.iterators()[0]:
        for index, flags in enumerate(batch["flags"]):
            starts = (flags & 1).nonzero().flatten().tolist()
            for start, stop in zip(starts, [*starts[1:], len(flags)], strict=True):
                if flags[start] & 4:
                    continue
                rows = slice(index, index + 1)
                per_token = ("tokens", "labels", "loss_weight", "flags")
                document = {name: batch[name][rows, start:stop] for name in per_token}
                document["flags_full"] = document["flags"]
                document |= {name: batch[name][rows] for name in ("t", "source", "num_maskable")}
                assert torch.equal(
                    document["flags_full"] & 1 == 1, torch.arange(stop - start)[None] == 0
                )
                documents.append(document)
        if len(documents) and batch["ordinal"].max() >= case.global_batch_size - 1:
            break
    report = run.forward_backward([iter(documents)], case.at_step, len(documents))
    return {
        "report": report.as_dict(),
        "tp_rank": 0,
        "weights": run.tensors("data"),
        "gradients": run.tensors("main_grad"),
    }


def peak_logits_bytes(case: Case) -> int:
    """Largest tensor that an operation of one step returned with a column a token of the vocabulary.

    Of two dimensions or more, and more than one row; the table, its gradient and its copies have
    ``hidden_size`` for the other dimension and are left out.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    run = Run(case)
    columns = {VOCAB}
    columns |= {p.shape[0] for c in run.model for n, p in c.named_parameters() if "embedding" in n}
    columns |= {p.shape[0] for c in run.model for n, p in c.named_parameters() if "output" in n}
    peak = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal peak
            result = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                shape = getattr(leaf, "shape", ())
                if (
                    len(shape) > 1
                    and shape[-1] in columns
                    and shape[-2] != run.config.model.hidden_size
                ):
                    peak = max(peak, leaf.numel() * leaf.element_size())
            return result

    with Watch():
        run.forward_backward(run.iterators())
    return peak


def precisions(case: Case) -> dict[str, set[str]]:
    """Types of weights, of what gradients are summed in, and of the optimizer's own tensors."""
    run = Run(case)
    _steps(run, 0, 1)
    parameters = [p for chunk in run.model for p in chunk.parameters()]
    inner = [o.optimizer for o in getattr(run.optimizer, "chained_optimizers", [run.optimizer])]
    return {
        "weights": {str(p.dtype) for p in parameters},
        "gradients": {str(p.main_grad.dtype) for p in parameters},
        "optimizer": {
            str(tensor.dtype)
            for optimizer in inner
            for group in optimizer.param_groups
            for p in group["params"]
            for tensor in (p, *(v for k, v in optimizer.state[p].items() if k != "step"))
        },
    }


def losses(case: Case) -> list[float]:
    """Losses of ``case.steps`` steps with updates."""
    from megatron_dream.training.optimizer import update

    run = Run(case)
    iterators = run.iterators()
    found = []
    for step in range(case.steps):
        found.append(run.forward_backward(iterators, step).loss)
        run.scheduler.step(1)
        update(run.optimizer)
    return found


def metadata_of(run: Run, step: int, optimizer_format: str) -> Any:
    from megatron_dream.checkpoint.metadata import CheckpointMetadata

    layout = run.layout
    return CheckpointMetadata(
        model=dataclasses.asdict(run.config.model),
        step=step,
        consumed_samples=step * GLOBAL_BATCH,
        has_optimizer=True,
        optimizer_format=optimizer_format,
        layout={
            "tp": layout.tp,
            "pp": layout.pp,
            "vp": layout.vp,
            "cp": layout.cp,
            "dp": layout.dp,
        },
        trained={"recipe": dataclasses.asdict(run.config)},
    )


def _steps(run: Run, first: int, count: int) -> list[float]:
    from megatron_dream.training.optimizer import update

    iterators = run.iterators(first * GLOBAL_BATCH)
    found = []
    for step in range(first, first + count):
        found.append(run.forward_backward(iterators, step).loss)
        run.scheduler.step(1)
        update(run.optimizer)
    return found


def save_then_continue(
    case: Case,
    folder: str,
    before: int,
    after: int,
    optimizer_format: str,
    asynchronous: bool = False,
) -> list[float]:
    """Train, save, go on; the losses of the steps after the save."""
    from megatron_dream.checkpoint.save import CheckpointWriter, step_folder

    run = Run(case)
    _steps(run, 0, before)
    writer = CheckpointWriter(folder, run.ranks, asynchronous=asynchronous)
    writer.save(
        step_folder(before),
        run.model,
        metadata_of(run, before, optimizer_format),
        optimizer=run.optimizer,
        scheduler=run.scheduler,
    )
    losses = _steps(run, before, after)
    writer.finish(wait=True)
    return losses


def resume(case: Case, folder: str, after: int) -> list[float]:
    """Load the latest checkpoint on this case's layout and go on."""
    from megatron_dream.checkpoint.load import load_training_state

    run = Run(case)
    metadata = load_training_state(folder, run.model, run.optimizer, run.scheduler, run.ranks)
    return _steps(run, metadata.step, after)


def load_error(case: Case, folder: str) -> str:
    """The sentence that loading ends with."""
    from megatron_dream.errors import CheckpointError

    try:
        resume(case, folder, 0)
    except CheckpointError as error:
        return str(error)
    return ""
