"""Published runs that the planner is held against, and the shapes of their models.

Rule: every dense run that trains all weights on a layout of TP, PP, VP, CP and DP with megatron-core's
distributed optimizer, which is what this engine runs. Out by the rule: parameter-sharded data
parallelism (FSDP), which this engine does not have; mixtures of experts and hybrid models; LoRA, since
this engine trains no adapters and freezes nothing. FP8 is in, although this engine computes in bf16 or
fp32 as yet: the planner predicts it. None is picked and none dropped for its error.

Numbers are those of each run's source; step = global batch x length / (tokens/s/GPU x GPUs) unless said.
TFLOP/s are compared inside one source only, since sources count them differently.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from megatron_dream.config.schema import ModelConfig, RunConfig
from megatron_dream.planning.job import Head, Job

# Layers, hidden, heads, KV heads, FFN, vocabulary: config.json of each model on the Hugging Face hub,
# and for Llama 3 table 3 of arXiv 2407.21783.
SHAPES = {
    "Llama3-8B": (32, 4096, 32, 8, 14336, 128256),
    "Llama3-70B": (80, 8192, 64, 8, 28672, 128256),
    "Llama3-405B": (126, 16384, 128, 8, 53248, 128256),
    "Llama2-7B": (32, 4096, 32, 32, 11008, 32000),
}


@dataclass(frozen=True)
class PublishedRun:
    """One run; what its source does not say is None."""

    row: str
    model: str
    gpu: str
    gpus: int
    precision: str
    sequence_length: int
    global_batch_size: int
    micro_batch_size: int
    tp: int
    pp: int
    cp: int = 1
    vp: int | None = None
    step_seconds: float | None = None
    memory_gb: float | None = None  # allocated at the most, 1e9 bytes
    recompute: tuple[str, ...] = ()  # modules
    memory_stage: int | None = None  # pipeline stage that ``memory_gb`` is of, where that is known
    spec: str = "transformer_engine"
    fp32_gradients: bool = False
    note: str = ""


def _h100(
    row: str, model: str, gpus: int, length: int, batch: int, *sizes: int, **more: object
) -> PublishedRun:
    tp, pp, cp, *vp = sizes
    return PublishedRun(
        row, model, "H100", gpus, "fp8", length, batch, 1, tp, pp, cp, vp[0] if vp else None,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


# The rank of these figures is not stated. On the day that they were published (2 April 2026) the source's
# TensorBoard and W&B logged the memory of the last rank alone, which it took for a fault three days later
# (NVIDIA-NeMo/Megatron-Bridge issues 3164 and 3167, mended by its 3645): so they are held against the last
# stage, and the fullest stage stands beside it.
_SFT = {"recompute": ("core_attn",), "memory_stage": -1}
_RATIO = "step by the ratio of TFLOP/s to row 7's, inside one source"
ROWS = (
    _h100("1", "Llama3-8B", 8, 8192, 128, 1, 1, 2, step_seconds=9.49),
    _h100("2", "Llama3-70B", 64, 8192, 128, 4, 8, 1, 5, step_seconds=10.1),
    _h100("3", "Llama3-405B", 1024, 8192, 512, 8, 8, 2, 8, step_seconds=13.0),
    _h100("5", "Llama3-70B", 64, 8192, 256, 4, 8, 1, 5, step_seconds=20.1),
    _h100("6", "Llama3-405B", 1024, 8192, 1536, 8, 8, 2, 8, step_seconds=37.7),
    _h100("7", "Llama3-70B", 32, 4096, 32, 4, 4, 1, 5, step_seconds=2.50, memory_gb=58.8, **_SFT),
    _h100("8", "Llama3-70B", 32, 4096, 32, 4, 8, 1, 5, step_seconds=2.50 * 710 / 668.0,
          memory_gb=53.2, note=_RATIO, **_SFT),
    _h100("9", "Llama3-70B", 32, 4096, 32, 8, 4, 1, 5, step_seconds=2.50 * 710 / 508.7,
          memory_gb=50.2, note=_RATIO, **_SFT),
    PublishedRun("26", "Llama2-7B", "A100-80", 16, "bf16", 4096, 2048, 2, 1, 2, memory_gb=69.1,
                 memory_stage=0, spec="local", fp32_gradients=True,
                 note="length and recomputation not stated: the model's own 4096, none; layers: local, "
                 "Megatron-LM's default of December 2023"),
)  # fmt: skip

# Not of the list, and never calibrated on: the same sources' other figures.
_SKILL = "Megatron-Bridge, notes on activation recomputation and memory"
_ARCHIVE = "Megatron-Bridge performance archive, 25.11"
OTHERS = (
    _h100("70B SFT, mlp recomputed", "Llama3-70B", 32, 4096, 32, 4, 4, 1, 5,
          step_seconds=2.50 * 710 / 593.6, memory_gb=55.6, recompute=("mlp",), note=_SKILL),
    _h100("70B SFT, VP 10", "Llama3-70B", 32, 4096, 32, 4, 4, 1, 10, memory_gb=60.2, note=_SKILL, **_SFT),
    PublishedRun("8B on B200", "Llama3-8B", "B200", 8, "fp8", 8192, 128, 2, 1, 1,
                 step_seconds=128 * 8192 / (30624 * 8), note=_ARCHIVE),
    PublishedRun("405B on B200", "Llama3-405B", "B200", 128, "fp8", 8192, 64, 1, 4, 8, 2, 8,
                 step_seconds=64 * 8192 / (661 * 128), note=_ARCHIVE),
)  # fmt: skip

LEFT_OUT = {
    "FSDP, which this engine does not have": "4, 16, 19, 20, 21, 22, 23, 24, 25",
    "mixture of experts or hybrid": "12, 13, 14, 15",
    "LoRA: this engine trains all weights": "10, 11, 17, 18",
}


def job_of(run: PublishedRun) -> Job:
    """The run as the planner takes it.

    From the recipes that the sources name: gradients in bf16, FP8 weights gathered as such, both
    overlaps of data parallelism, products overlapped with TP's collectives, gradients summed inside the
    products, one fused loss on all rows, causal. Where layers do not divide by PP x VP (126 by 64), the
    embedding and the head take a layer's place.
    """
    layers, hidden, heads, groups, ffn, vocabulary = SHAPES[run.model]
    config = RunConfig()
    config.model = ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=groups,
        ffn_hidden_size=ffn,
        vocab_size=vocabulary,
        add_qkv_bias=False,
    )
    config.diffusion.objective = "ar"
    parallel, training = config.parallel, config.training
    parallel.tensor_model_parallel_size = run.tp
    parallel.pipeline_model_parallel_size = run.pp
    parallel.context_parallel_size = run.cp
    parallel.virtual_pipeline_model_parallel_size = run.vp
    parallel.sequence_parallel = run.tp > 1
    parallel.grad_reduce_in_fp32 = run.fp32_gradients
    parallel.overlap_grad_reduce = parallel.overlap_param_gather = True
    counted = layers % (run.pp * (run.vp or 1)) != 0
    parallel.account_for_embedding_in_pipeline_split = counted
    parallel.account_for_loss_in_pipeline_split = counted
    config.data.sequence_length = run.sequence_length
    training.global_batch_size = run.global_batch_size
    training.micro_batch_size = run.micro_batch_size
    if run.recompute:
        training.recompute, training.recompute_modules = "selective", list(run.recompute)  # type: ignore[arg-type]
    job = Job.of(config, run.gpus, precision=run.precision)  # type: ignore[arg-type]
    return dataclasses.replace(
        job,
        spec=run.spec,
        head=Head(share=1.0, chunk_rows=None),
        overlap_tp=run.tp > 1,
        fuses_gradient_sum=True,
        fp8_weights=run.precision == "fp8",
    )
