"""Fields of the GPU path that need one another: FP8, overlap of tensor parallelism, CUDA graphs, widths.

What depends on the model's shape and the layout is in ``shapes.py``, what depends on the machine in
``training/features.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

from megatron_dream.config.schema import Fp8Config, RunConfig


def has_one_width(config: RunConfig, stage: str) -> bool:
    """Whether every micro-batch of a run has the same width, so that shapes repeat.

    Rows of pretraining are ``data.sequence_length`` wide. Those of sft and rl are as wide as the longest of
    a micro-batch, unless ``sft.width`` is max or widths are rounded to one bucket. Under context
    parallelism documents are padded to what CP can cut, so that their number decides the width.
    """
    if config.parallel.context_parallel_size > 1 and not has_whole_rows(config, stage):
        return False
    if stage == "pretrain" or config.training.round_widths_to >= config.data.sequence_length:
        return True
    return stage == "sft" and config.sft.width == "max"


def has_whole_rows(config: RunConfig, stage: str) -> bool:
    """Whether every row is one segment without padding, so that attention needs no mask."""
    return stage == "pretrain" and not config.data.document_masks and not config.data.random_length


def gpu_faults(config: RunConfig, stage: str) -> Iterator[str]:
    """Sentences, without their full stop, about fields that contradict one another."""
    yield from _fp8_faults(config)
    yield from _overlap_faults(config, stage)
    yield from _graph_faults(config, stage)
    if stage == "rl" and config.fp8.recipe != "none":
        yield "fp8.recipe is of Transformer Engine's layers, and rl trains local ones; set it to none"
    if stage == "rl" and config.training.round_widths_to:
        yield (
            "training.round_widths_to has no meaning in rl, whose rows are as wide as prompt and "
            "response; leave it out"
        )
    longest, unit = config.data.sequence_length, config.training.round_widths_to
    if unit > 1 and longest % unit:
        yield (
            f"training.round_widths_to {unit} does not divide data.sequence_length {longest}, the widest "
            f"row: {longest} / {unit} = {longest / unit:.2f}; choose a divisor"
        )


def _fp8_faults(config: RunConfig) -> Iterator[str]:
    fp8, default = config.fp8, Fp8Config()
    if fp8.recipe == "none":
        for name in vars(default):
            if getattr(fp8, name) != getattr(default, name):
                yield f"fp8.{name} is set and fp8.recipe is none; name a recipe or leave it out"
        return
    if config.training.precision != "bf16":
        yield (
            f"fp8.recipe {fp8.recipe} casts from bf16, and training.precision is "
            f"{config.training.precision}; set it to bf16"
        )
    if config.model.layer_spec == "local":
        yield (
            f"fp8.recipe {fp8.recipe} is of Transformer Engine's layers, and model.layer_spec is local; set "
            "it to transformer_engine or the recipe to none"
        )
    for name in ("margin", "amax_history", "amax_compute"):
        if fp8.recipe != "delayed" and getattr(fp8, name) != getattr(default, name):
            yield (
                f"fp8.{name} belongs to fp8.recipe: delayed, which looks back; the recipe is {fp8.recipe}, "
                "leave the field out"
            )
    if fp8.recipe == "delayed" and (fp8.first_layers_bf16 or fp8.last_layers_bf16):
        yield (
            "fp8.first_layers_bf16 and last_layers_bf16 need a recipe that is entered layer by layer; "
            "delayed is entered once for all layers: set both to 0 or the recipe to current"
        )


def _overlap_faults(config: RunConfig, stage: str) -> Iterator[str]:
    parallel = config.parallel
    if parallel.cp_comm_type == "p2p" and parallel.context_parallel_size == 1:
        yield (
            "parallel.cp_comm_type is p2p and parallel.context_parallel_size is 1, where nothing is sent; "
            "leave it out"
        )
    if parallel.cp_comm_type == "p2p" and config.model.layer_spec == "local":
        yield (
            "parallel.cp_comm_type: p2p is Transformer Engine's ring, and the local attention gathers; set "
            "it to all_gather or model.layer_spec to transformer_engine"
        )
    if not parallel.tp_comm_overlap:
        return
    tp = parallel.tensor_model_parallel_size
    if tp == 1 or not parallel.sequence_parallel:
        yield (
            "parallel.tp_comm_overlap hides the gathers of sequence parallelism: it needs TP > 1 and "
            f"parallel.sequence_parallel, and TP is {tp}, sequence_parallel {parallel.sequence_parallel}; "
            "turn it off or those on"
        )
    if config.model.layer_spec == "local":
        yield (
            "parallel.tp_comm_overlap is of Transformer Engine's layers, and model.layer_spec is local; "
            "turn it off or set the latter to transformer_engine"
        )
    if config.fp8.recipe == "blockwise":
        yield (
            "parallel.tp_comm_overlap: Transformer Engine's buffers do not take blocks, and fp8.recipe is "
            "blockwise; turn it off or set the recipe to current"
        )
    if not has_one_width(config, stage):
        yield f"parallel.tp_comm_overlap has one buffer for one width, and {_VARYING}"


def _graph_faults(config: RunConfig, stage: str) -> Iterator[str]:
    training = config.training
    if not training.cuda_graphs:
        return
    if not has_one_width(config, stage):
        yield f"training.cuda_graphs records one shape, and {_VARYING}"
    elif not has_whole_rows(config, stage):
        yield (
            "training.cuda_graphs records attention without documents or padding, whose number varies; turn "
            "it off, or leave out data.document_masks and data.random_length (in sft it is not served)"
        )
    if training.recompute != "none" or training.offload_modules:
        yield (
            "training.cuda_graphs records layers that keep their inputs; set training.recompute to none "
            "and leave out training.offload_modules"
        )
    if config.model.attention_dropout or config.model.hidden_dropout:
        yield "training.cuda_graphs would repeat one draw of dropout; set both dropouts to 0"


_VARYING = (
    "widths of this stage vary; set sft.width to max, training.round_widths_to to data.sequence_length, "
    "or turn it off"
)
