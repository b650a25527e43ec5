"""From configuration to the model chunks of this process."""

from __future__ import annotations

from typing import Any

import torch

from .. import device
from ..config.schema import Fp8Config, ModelConfig, Objective, ParallelConfig, TrainingConfig
from ..parallel import Ranks
from .gpt import dream_model_class
from .initialize import initialize_weights
from .specs import block_spec, resolve_layer_spec

# Fields of ParallelConfig that megatron-core's configuration has under the same name.
_OF_LAYOUT = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
    "context_parallel_size",
    "sequence_parallel",
    "cp_comm_type",
    "tp_comm_overlap",
)


def padded_vocab_size(vocab_size: int, tp_size: int) -> int:
    """Rows of the table: the vocabulary rounded up to a multiple of TP, nothing more."""
    return -(-vocab_size // tp_size) * tp_size


def _recompute_fields(training: TrainingConfig) -> dict[str, Any]:
    if training.recompute == "none":
        return {}
    if training.recompute == "selective":
        modules = list(training.recompute_modules)
        return {"recompute_granularity": "selective", "recompute_modules": modules}
    return {
        "recompute_granularity": "full",
        "recompute_method": training.recompute_method,
        "recompute_num_layers": training.recompute_num_layers,
    }


def _fp8_fields(fp8: Fp8Config) -> dict[str, Any]:
    """megatron-core's words for the recipe; what FP8 leaves in bf16 stays so by its defaults."""
    if fp8.recipe == "none":
        return {}
    by_block = fp8.recipe in ("blockwise", "mxfp8")
    return {
        "fp8": fp8.format or ("e4m3" if by_block else "hybrid"),
        "fp8_recipe": {"current": "tensorwise"}.get(fp8.recipe, fp8.recipe),
        "fp8_margin": fp8.margin,
        "fp8_amax_history_len": fp8.amax_history,
        "fp8_amax_compute_algo": fp8.amax_compute,
        # megatron-core asserts that it is off under delayed, and counts layers of the whole model.
        "first_last_layers_bf16": bool(fp8.first_layers_bf16 or fp8.last_layers_bf16),
        "num_layers_at_start_in_bf16": fp8.first_layers_bf16,
        "num_layers_at_end_in_bf16": fp8.last_layers_bf16,
        "fp8_dot_product_attention": False,
        "fp8_multi_head_attention": False,
    }


def _graph_fields(training: TrainingConfig) -> dict[str, Any]:
    """megatron-core's own graphs, one a layer: it records them in the first step and replays them."""
    on_gpu = device.device_type() == "cuda"  # a rehearsal builds the model without
    return {"cuda_graph_impl": "local"} if training.cuda_graphs and on_gpu else {}


def compiles_parts(training: TrainingConfig, spec: str) -> bool:
    """Whether the local layers' parts are compiled; ``auto``: on a GPU, where equal bits are not asked for.

    A compiler picks a kernel by timing it, which need not end alike in two runs.
    """
    if spec != "local" or training.compile == "off":
        return False
    is_wanted = device.device_type() == "cuda" and not training.deterministic
    return training.compile == "on" or (is_wanted and device.can_compile())


def fuses_weight_gradients(training: TrainingConfig, spec: str) -> bool:
    """Whether weight gradients are added to the gradient buffer inside their product.

    Transformer Engine's products do it themselves; the local layers' by apex's kernel.
    """
    choice = training.gradient_accumulation_fusion
    can = spec == "transformer_engine" or device.has_fused_weight_gradients()
    return choice == "on" or (choice == "auto" and can)


def _leave_as_it_is(weight: torch.Tensor) -> torch.Tensor:
    return weight


def transformer_config(
    model: ModelConfig,
    parallel: ParallelConfig,
    training: TrainingConfig,
    *,
    spec: str = "local",
    variable_lengths: bool = False,
    fp8: Fp8Config | None = None,
) -> Any:
    """megatron-core's TransformerConfig, with everything Megatron-LM would set silently.

    Args:
        model: a resolved model (presets filled in).
        parallel: the layout.
        training: precision and recomputation.
        spec: ``"local"`` or ``"transformer_engine"``.
        variable_lengths: micro-batches differ in width, and pipeline stages tell one another theirs.
        fp8: of the layers' products; None: bf16.
    """
    from megatron.core.transformer.transformer_config import TransformerConfig

    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    on_gpu = device.device_type() == "cuda"
    interleaved = (parallel.virtual_pipeline_model_parallel_size or 1) > 1
    config = TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        ffn_hidden_size=model.ffn_hidden_size,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=model.add_qkv_bias,
        attention_dropout=model.attention_dropout,
        hidden_dropout=model.hidden_dropout,
        # initialize.py draws the weights. megatron-core's initialisation must still run: it marks
        # which tensors are cut, which gradient norms and checkpoints rely on.
        init_method=_leave_as_it_is,
        output_layer_init_method=_leave_as_it_is,
        embedding_init_method=_leave_as_it_is,
        use_cpu_initialization=not on_gpu,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=training.precision == "bf16",
        calculate_per_token_loss=True,
        # Freed outputs race with gloo's sends; a same-rank exchange needs posted order
        # (interleaved).
        deallocate_pipeline_outputs=on_gpu,
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        # The local spec brings its own SwiGLU, which this field's name does not tell.
        use_te_activation_func=spec == "local",
        bias_activation_fusion=on_gpu and spec != "local",
        bias_dropout_fusion=False,
        apply_rope_fusion=spec == "transformer_engine",
        gradient_accumulation_fusion=fuses_weight_gradients(training, spec),
        deterministic_mode=training.deterministic,
        variable_seq_lengths=variable_lengths,
        # Asked for by variable lengths, without any experts to dispatch to.
        moe_token_dispatcher_type="alltoall",
        fine_grained_activation_offloading=bool(training.offload_modules),
        offload_modules=list(training.offload_modules),
        **{name: getattr(parallel, name) for name in _OF_LAYOUT},
        **_fp8_fields(fp8 or Fp8Config()),
        **_graph_fields(training),
        **_recompute_fields(training),
    )
    config.compiles_parts = compiles_parts(training, spec)  # read by the local layers (composed.py)
    return config


def _build_chunk(
    config: Any,
    model: ModelConfig,
    training: TrainingConfig,
    objective: Objective,
    ranks: Ranks,
    spec: str,
    vp_stage: int,
) -> Any:
    from megatron.core import parallel_state

    stage = vp_stage if ranks.vp_size > 1 else None
    chunk = dream_model_class()(
        config=config,
        transformer_layer_spec=block_spec(config, spec, objective, stage),
        vocab_size=padded_vocab_size(model.vocab_size, ranks.tp_size),
        max_sequence_length=model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
        share_embeddings_and_output_weights=model.tie_word_embeddings,
        position_embedding_type="rope",
        rotary_base=model.rotary_base,
        vp_stage=stage,
    )
    chunk.real_vocab_size = model.vocab_size
    chunk.head_chunk_rows = model.head_chunk_rows
    chunk.layer_spec = spec
    chunk.head_row_multiple = training.round_head_rows_to
    chunk.has_fused_head = training.fused_cross_entropy
    return chunk


def build_model(
    model: ModelConfig,
    parallel: ParallelConfig,
    training: TrainingConfig,
    ranks: Ranks,
    *,
    objective: Objective = "diffusion",
    draws_weights: bool = True,
    variable_lengths: bool = False,
    fp8: Fp8Config | None = None,
) -> list[Any]:
    """The model chunks of this process on its device; several under interleaved pipelining.

    Args:
        model: a resolved model (presets filled in, vocabulary known).
        parallel: the layout that ``ranks`` was started with.
        training: precision, recomputation and the seed of the weights.
        ranks: this process's place.
        objective: ``diffusion`` attends in both directions, ``ar`` only to the left.
        draws_weights: False leaves them undefined, for a caller who fills them all.
        variable_lengths: micro-batches differ in width.
        fp8: of the layers' products; None: bf16.
    """
    spec = resolve_layer_spec(model)
    config = transformer_config(
        model, parallel, training, spec=spec, variable_lengths=variable_lengths, fp8=fp8
    )
    chunks = []
    for vp_stage in range(ranks.vp_size):
        chunk = _build_chunk(config, model, training, objective, ranks, spec, vp_stage)
        if draws_weights:
            initialize_weights(
                chunk,
                seed=training.seed,
                std=model.init_method_std,
                tp_rank=ranks.tp_rank,
                tp_size=ranks.tp_size,
            )
        chunks.append(chunk.to(device.current_device()))
    return chunks
