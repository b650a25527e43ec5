"""The parallel layout of a run as one equation, and the refusal of layouts that compute wrongly.

world size = TP x PP x CP x DP and global batch = micro batch x DP x accumulation, every operand
printed. TP splits heads and vocabulary, PP layers (VP chunks of them a rank), CP the sequence in
2 x CP zigzag chunks, sequence parallelism (SP) the sequence over the TP group between its layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_dream.config.gpu_options import has_whole_rows
from megatron_dream.config.pipeline import chunk_layers
from megatron_dream.config.presets import resolve_model
from megatron_dream.config.schema import ModelConfig, RunConfig
from megatron_dream.config.shapes import row_unit, shape_requirements
from megatron_dream.errors import LayoutError


@dataclass(frozen=True)
class Layout:
    """Sizes of the process groups and of the batch. All are whole and fit together."""

    world_size: int
    tp: int
    pp: int
    vp: int  # model chunks a pipeline rank; 1 without interleaving
    cp: int
    dp: int
    micro_batch_size: int
    global_batch_size: int
    num_microbatches: int  # accumulation: micro-batches a data-parallel rank and step
    width_unit: int = 1  # tokens that a row's width must be a multiple of (shapes.py)
    packed_unit: int = 1  # likewise of the one sequence that rows are packed into

    def equation(self) -> str:
        """Both equations with every operand, in one line."""
        chunks = f" (x VP {self.vp} chunks)" if self.vp > 1 else ""
        return (
            f"world size {self.world_size} = TP {self.tp} x PP {self.pp}{chunks} x CP {self.cp} x "
            f"DP {self.dp}; global batch {self.global_batch_size} = micro batch "
            f"{self.micro_batch_size} x DP {self.dp} x accumulation {self.num_microbatches}"
        )


def resolve_layout(config: RunConfig, world_size: int, stage: str = "pretrain") -> Layout:
    """Compute DP and accumulation for ``world_size`` processes and check the layout.

    Args:
        config: the run; the model may still name a preset.
        world_size: number of processes, one a device.
        stage: what the run is for.

    Raises:
        LayoutError: the layout does not divide, or the engine would compute wrong numbers on it;
            the sentence holds the equation.
        ConfigError: the model's shape is incomplete.
    """
    layout = _divide(config, world_size)
    model = resolve_model(config.model)
    problem = (
        _pipeline_problem(layout, config, model)
        or _tensor_problem(layout, config, model)
        or _sequence_problem(layout, config, model)
        or _fp8_problem(layout, config, model)
        or _engine_problem(layout, config)
        or _fused_attention_problem(layout, config, stage)
        or _validation_problem(layout, config, stage)
    )
    if problem:
        raise LayoutError(f"{problem} [{layout.equation()}].")
    return layout


def _divide(config: RunConfig, world_size: int) -> Layout:
    parallel, training = config.parallel, config.training
    tp = parallel.tensor_model_parallel_size
    pp = parallel.pipeline_model_parallel_size
    cp = parallel.context_parallel_size
    vp = parallel.virtual_pipeline_model_parallel_size or 1
    micro, batch = training.micro_batch_size, training.global_batch_size
    for name, value in (("TP", tp), ("PP", pp), ("CP", cp), ("VP", vp)):
        if value < 1:
            raise LayoutError(f"parallel: {name} is {value}; every size must be at least 1.")
    if micro < 1 or batch < 1:
        raise LayoutError(f"training: micro batch {micro} or global batch {batch} is below 1.")
    world = f"world size {world_size} = TP {tp} x PP {pp} x CP {cp} x DP"
    if world_size < 1 or world_size % (tp * pp * cp):
        raise LayoutError(
            f"parallel: {world} {world_size}/{tp * pp * cp} is not whole; start a multiple of "
            f"{tp * pp * cp} processes or change the sizes."
        )
    dp = world_size // (tp * pp * cp)
    if batch % (micro * dp):
        raise LayoutError(
            f"training.global_batch_size: {world} {dp}; global batch {batch} = micro batch {micro} "
            f"x DP {dp} x accumulation {batch}/{micro * dp} is not whole; make it a multiple of "
            f"{micro * dp}."
        )
    units = row_unit(config, micro), row_unit(config, 1)
    return Layout(world_size, tp, pp, vp, cp, dp, micro, batch, batch // (micro * dp), *units)


def _pipeline_problem(layout: Layout, config: RunConfig, model: ModelConfig) -> str | None:
    vp_field = "parallel.virtual_pipeline_model_parallel_size"
    is_interleaved = config.parallel.virtual_pipeline_model_parallel_size is not None
    if is_interleaved and layout.pp == 1:
        return f"{vp_field} is set without a pipeline; leave it out or give PP at least 2"
    if is_interleaved and layout.vp == 1:
        return f"{vp_field} is 1, which interleaves nothing; leave it out or give at least 2"
    try:
        chunk_layers(config.parallel, model.num_layers)
    except LayoutError as error:
        return str(error)
    if is_interleaved and layout.num_microbatches % layout.pp:
        return (
            f"the interleaved pipeline needs an accumulation divisible by PP {layout.pp}, it is "
            f"{layout.num_microbatches}; change training.global_batch_size or the micro batch"
        )
    return None


def _tensor_problem(layout: Layout, config: RunConfig, model: ModelConfig) -> str | None:
    if model.hidden_size % model.num_attention_heads:
        return (
            f"model.hidden_size {model.hidden_size} is not divisible by model.num_attention_heads "
            f"{model.num_attention_heads}; change one of them"
        )
    if model.num_attention_heads % model.num_query_groups:
        return (
            f"model.num_attention_heads {model.num_attention_heads} is not divisible by "
            f"model.num_query_groups {model.num_query_groups}; change one of them"
        )
    if (model.hidden_size // model.num_attention_heads) % 2:
        return (
            "the size of a head is odd, and rotary positions turn pairs; change model.hidden_size"
        )
    for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size"):
        value = getattr(model, name)
        if value % layout.tp:
            return (
                f"model.{name} {value} is not divisible by TP {layout.tp}; choose a "
                "parallel.tensor_model_parallel_size that divides it"
            )
    if config.parallel.sequence_parallel and layout.tp == 1:
        return (
            "parallel.sequence_parallel splits over the TP group, and TP is 1; set it to false or "
            "parallel.tensor_model_parallel_size to 2 or more"
        )
    return None


def _sequence_problem(layout: Layout, config: RunConfig, model: ModelConfig) -> str | None:
    length = config.data.sequence_length
    if length > model.max_position_embeddings:
        return (
            f"data.sequence_length {length} is over model.max_position_embeddings "
            f"{model.max_position_embeddings}; shorten the rows or raise the model's limit"
        )
    factors = [f"SP over TP {layout.tp}"] if config.parallel.sequence_parallel else []
    factors += [f"2 x CP {layout.cp}"] if layout.cp > 1 else []
    unit = (layout.tp if config.parallel.sequence_parallel else 1) * (
        2 * layout.cp if layout.cp > 1 else 1
    )
    if length % unit:
        return (
            f"data.sequence_length {length} is not divisible by {unit} ({' x '.join(factors)}); "
            f"{length // unit * unit or unit} would do"
        )
    return None


def _fp8_problem(layout: Layout, config: RunConfig, model: ModelConfig) -> str | None:
    """Shapes that FP8 products do not take, and layers in bf16 that megatron-core cannot place."""
    fp8, length = config.fp8, config.data.sequence_length
    if fp8.recipe == "none":
        return None
    for needed in shape_requirements(
        fp8.recipe,
        model,
        width=length,
        micro_batch_size=layout.micro_batch_size,
        tp=layout.tp,
        cp=layout.cp,
        sequence_parallel=config.parallel.sequence_parallel,
        overlaps=config.parallel.tp_comm_overlap,
    ):
        if not needed.is_met:
            unit = layout.width_unit
            way = (
                f"rows of {length // unit * unit or unit} would do"
                if "rows" in needed.words
                else ("change the model's shape or parallel.tensor_model_parallel_size")
            )
            return f"fp8.recipe {fp8.recipe}: {needed.equation()}; {way}, or set the recipe to none"
    if length % layout.width_unit:
        return (
            f"data.sequence_length {length} is not divisible by {layout.width_unit}, which fp8.recipe "
            f"{fp8.recipe}, the layout and training.round_widths_to ask of widths; "
            f"{length // layout.width_unit * layout.width_unit or layout.width_unit} would do"
        )
    most = model.num_layers // layout.pp
    for name in ("first_layers_bf16", "last_layers_bf16"):
        if getattr(fp8, name) > most:
            return (
                f"fp8.{name} is {getattr(fp8, name)}, more than a pipeline stage has: layers "
                f"{model.num_layers} / PP {layout.pp} = {most}; give fewer"
            )
    if fp8.first_layers_bf16 + fp8.last_layers_bf16 >= model.num_layers:
        return (
            f"fp8.first_layers_bf16 {fp8.first_layers_bf16} + last_layers_bf16 {fp8.last_layers_bf16} "
            f"leave none of {model.num_layers} layers in FP8; set the recipe to none"
        )
    return None


def _engine_problem(layout: Layout, config: RunConfig) -> str | None:
    """What megatron-core takes without a word and does not compute, or raises on one rank only."""
    parallel = config.parallel
    if parallel.overlap_param_gather and not parallel.use_distributed_optimizer:
        return (
            "parallel.overlap_param_gather needs parallel.use_distributed_optimizer; turn the "
            "first off or the second on"
        )
    if parallel.overlap_param_gather and not parallel.overlap_grad_reduce:
        return (
            "parallel.overlap_param_gather needs parallel.overlap_grad_reduce; turn the first off "
            "or the second on"
        )
    instances = parallel.num_distributed_optimizer_instances
    if (layout.dp * layout.cp) % instances:
        return (
            f"parallel.num_distributed_optimizer_instances {instances} does not divide DP {layout.dp} x "
            f"CP {layout.cp}; choose one that does"
        )
    wants_shards = config.checkpoint.optimizer_format == "dp_reshardable"
    if wants_shards and not parallel.use_distributed_optimizer:
        return (
            "checkpoint.optimizer_format: dp_reshardable needs parallel.use_distributed_optimizer; "
            "use auto or turn it on"
        )
    return None


def _fused_attention_problem(layout: Layout, config: RunConfig, stage: str) -> str | None:
    """What Transformer Engine's attention cannot express: it has segments (THD) but no free mask."""
    if config.model.layer_spec != "transformer_engine":
        return None
    if (
        config.training.recompute == "selective"
        and "layernorm" in config.training.recompute_modules
    ):
        return (
            "training.recompute_modules: layernorm has nothing to recompute in Transformer Engine's "
            "layers, whose norms are fused with what follows; leave it out"
        )
    if config.diffusion.attention == "anneal":
        return (
            "diffusion.attention: anneal needs a mask that Transformer Engine's attention does not "
            "take; use model.layer_spec: local or attention: full"
        )
    if stage == "sft" and not config.sft.pad_attended:
        return (
            "sft.pad_attended: false needs a mask that Transformer Engine's attention does not take; use "
            "model.layer_spec: local or pad_attended: true"
        )
    if has_whole_rows(config, stage) or layout.cp == 1:
        return None
    if config.parallel.cp_comm_type != "p2p":
        return (
            "parallel.cp_comm_type: all_gather of Transformer Engine takes no documents and no padding, "
            "which data.document_masks, data.random_length and the rows of sft have; set it to p2p"
        )
    return None


def _validation_problem(layout: Layout, config: RunConfig, stage: str) -> str | None:
    if stage == "rl":  # a sample is a problem there, whatever rank has it
        return None
    samples, rows = config.training.eval_samples, layout.micro_batch_size * layout.dp
    if config.training.eval_interval and samples % rows:
        return (
            f"training.eval_samples {samples} is no multiple of micro batch "
            f"{layout.micro_batch_size} x DP {layout.dp} = {rows}, so that layouts would see different "
            f"rows; make it one"
        )
    return None
