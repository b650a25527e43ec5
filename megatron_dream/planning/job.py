"""What is to be planned: the numbers of one run on one layout, and nothing that was measured.

``Job.of`` takes them from a run's configuration. A published run is described by setting the fields
that this engine does not have (``fuses_gradient_sum``, ``fp8_weights``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ..config.layout import Layout, resolve_layout
from ..config.pipeline import chunk_layers
from ..config.presets import resolve_model
from ..config.schema import Fp8Config, ModelConfig, OptimizerConfig, RunConfig
from ..errors import ConfigError
from ..training.throughput import expected_head_share

Precision = Literal["fp32", "bf16", "fp8"]
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}


@dataclass(frozen=True)
class Recompute:
    """What the backward pass computes again."""

    granularity: str = "none"  # none, selective, full
    modules: tuple[str, ...] = ()  # of selective
    method: str = "uniform"  # of full: uniform or block
    num_layers: int = 1  # of full: in a piece (uniform), or of a chunk (block)

    def words(self) -> str:
        """In a table's cell."""
        if self.granularity == "selective":
            return "selective " + "+".join(self.modules)
        if self.granularity == "full":
            return "full" if self.method == "uniform" else f"full, {self.num_layers} layers"
        return self.granularity


@dataclass(frozen=True)
class Head:
    """How the output layer is run."""

    share: float  # expected share of rows that it runs on
    chunk_rows: int | None  # rows of logits alive at once; None: all, in one fused loss


@dataclass(frozen=True)
class States:
    """Bytes a parameter of what training keeps, and over how many ranks it is spread."""

    gradient: int  # of the buffer that gradients are summed in
    main: float  # main weights; 0: the weights themselves
    moments: float
    is_sharded: bool
    shards: int  # ranks that one copy of the optimizer is spread over
    instances: int  # copies
    offloaded: float  # share of the optimizer on the host
    copies_gradients: bool  # an fp32 copy of bf16 gradients lives during the update


@dataclass(frozen=True)
class Job:
    """One run on one layout."""

    model: ModelConfig
    layout: Layout
    chunks: tuple[tuple[int, ...], ...]  # layers [stage][chunk]
    sequence_length: int
    precision: Precision
    spec: str  # transformer_engine or local
    is_causal: bool
    sequence_parallel: bool
    recompute: Recompute
    head: Head
    states: States
    offload_modules: tuple[str, ...] = ()
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False
    bucket_size: int | None = None
    overlap_tp: bool = False  # products overlap with the collectives around them, in TP pieces
    # What this engine does not do, and published runs do:
    fuses_gradient_sum: bool = False  # the product adds to the gradient buffer itself
    fp8_weights: bool = False  # the only working copy of the layers' weights is FP8

    @property
    def weight_bytes(self) -> float:
        """Of a working weight of the layers. FP8 beside bf16: the casts and their transposes are kept."""
        if self.precision == "fp8":
            return 1 if self.fp8_weights else 2 + 1 + 1
        return DTYPE_BYTES[self.precision]

    @property
    def activation_bytes(self) -> int:
        """Of an activation that is not in FP8."""
        return 4 if self.precision == "fp32" else 2

    @property
    def tokens_per_microbatch(self) -> int:
        """Of a rank: s b / CP."""
        return self.sequence_length * self.layout.micro_batch_size // self.layout.cp

    @property
    def tokens_per_step(self) -> int:
        """Of the global batch."""
        return self.sequence_length * self.layout.global_batch_size

    @property
    def sequence_shards(self) -> int:
        """Ranks that activations between the layers' products are spread over."""
        return self.layout.tp if self.sequence_parallel else 1

    @staticmethod
    def of(
        config: RunConfig,
        num_gpus: int,
        *,
        precision: Precision | None = None,
        stage: str = "pretrain",
    ) -> Job:
        """The job of a run's configuration.

        Args:
            config: the run's; ``layer_spec: auto`` counts as Transformer Engine, which a GPU has.
            num_gpus: processes, one a GPU.
            precision: in place of the configuration's (``fp8.recipe``, else ``training.precision``);
                ``fp8`` is of the layers' products, beside bf16.
            stage: what the run is for.

        Raises:
            LayoutError: the layout does not fit.
            ConfigError: the model's shape is incomplete, or FP8 is asked of local layers.
        """
        config = with_precision(config, precision)
        model = resolve_model(config.model)
        if not model.vocab_size:
            raise ConfigError(
                "model.vocab_size is 0, which means the tokenizer's; give its number, a plan reads no "
                "tokenizer."
            )
        model.layer_spec = "local" if model.layer_spec == "local" else "transformer_engine"
        config = dataclasses.replace(config, model=model)
        layout = resolve_layout(config, num_gpus, stage)
        in_fp8 = config.fp8.recipe != "none"
        chosen: Precision = precision or ("fp8" if in_fp8 else config.training.precision)
        if chosen == "fp8" and model.layer_spec == "local":
            raise ConfigError(
                "FP8 products are Transformer Engine's; set model.layer_spec to transformer_engine."
            )
        training, parallel = config.training, config.parallel
        return Job(
            model=model,
            layout=layout,
            chunks=chunk_layers(parallel, model.num_layers),
            sequence_length=config.data.sequence_length,
            precision=chosen,
            spec=model.layer_spec,
            is_causal=config.diffusion.objective == "ar",
            sequence_parallel=parallel.sequence_parallel,
            recompute=Recompute(
                training.recompute,
                tuple(training.recompute_modules) if training.recompute == "selective" else (),
                training.recompute_method,
                training.recompute_num_layers,
            ),
            head=Head(expected_head_share(config.diffusion), model.head_chunk_rows),
            states=_states(config, layout),
            offload_modules=tuple(training.offload_modules),
            overlap_grad_reduce=parallel.overlap_grad_reduce,
            overlap_param_gather=parallel.overlap_param_gather,
            bucket_size=parallel.bucket_size,
            overlap_tp=parallel.tp_comm_overlap,
        )


def with_precision(config: RunConfig, precision: Precision | None) -> RunConfig:
    """``config`` in another precision; with FP8 products all else is in bf16."""
    if precision is None:
        return config
    base: Literal["fp32", "bf16"] = "fp32" if precision == "fp32" else "bf16"
    return dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, precision=base),
        fp8=config.fp8 if precision == "fp8" else Fp8Config(),
    )


def _states(config: RunConfig, layout: Layout) -> States:
    parallel, ours = config.parallel, config.optimizer
    low = config.training.precision != "fp32"
    gradient = 4 if parallel.grad_reduce_in_fp32 or not low else 2
    instances = parallel.num_distributed_optimizer_instances
    sharded = parallel.use_distributed_optimizer
    return States(
        gradient=gradient,
        main=_main_bytes(ours) if low else 0,
        moments=_moment_bytes(ours),
        is_sharded=sharded,
        shards=layout.dp * layout.cp // instances if sharded else 1,
        instances=instances,
        offloaded=ours.optimizer_offload_fraction if ours.optimizer_cpu_offload else 0.0,
        copies_gradients=gradient == 2 and not ours.use_precision_aware_optimizer,
    )


def state_share(ours: OptimizerConfig) -> float:
    """Bytes on a GPU of this optimizer's states beside bf16 weights, as a share of plain Adam's twelve."""
    offloaded = ours.optimizer_offload_fraction if ours.optimizer_cpu_offload else 0.0
    return (_main_bytes(ours) + _moment_bytes(ours)) / 12 * (1 - offloaded)


def _main_bytes(ours: OptimizerConfig) -> int:
    # Precision-aware with fp32: the upper half is the bf16 weight itself, 2 bytes hold the rest.
    return 2 if ours.use_precision_aware_optimizer else 4


def _moment_bytes(ours: OptimizerConfig) -> int:
    if ours.optimizer == "sgd":
        return 4
    return DTYPE_BYTES[ours.exp_avg_dtype] + DTYPE_BYTES[ours.exp_avg_sq_dtype]
