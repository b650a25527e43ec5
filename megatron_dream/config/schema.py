"""Every configuration field of a training run, with its type, default and unit.

A field that is not here does not exist: ``load.py`` refuses unknown names. Values that
Megatron-LM's ``arguments.py`` would set silently are fields too; docs/configuration.md compares the
defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Objective = Literal["diffusion", "ar"]
LayerSpec = Literal["local", "transformer_engine"]
WeightName = Literal["inverse_t", "linear", "uniform", "cart", "cart_shuffled"]
RecomputeModule = Literal["core_attn", "mlp", "layernorm"]
OffloadModule = Literal["qkv_linear", "core_attn", "attn_proj"]
ALERT_KINDS = (
    # faults of a step, of checkpoints, of disks; then what is looked for, and how a start ends
    "not_finite loss_spike gradient_spike new_normal rollback empty_batch "
    "checkpoint_passed_over save_missed slow_save export_missed log_lost samples_lost "
    "low_goodput disk old_checkpoint straggler hang stop end failure"
).split()


@dataclass
class ModelConfig:
    """Shape of the transformer (Qwen2 family). ``preset`` fills whatever is not given."""

    preset: str | None = None  # a name of presets.py
    num_layers: int = 0
    hidden_size: int = 0
    num_attention_heads: int = 0
    num_query_groups: int = 0  # KV heads
    ffn_hidden_size: int = 0
    vocab_size: int = 0  # rows of the table; 0: the tokenizer's
    max_position_embeddings: int = 32768
    norm_epsilon: float = 1e-6
    rotary_base: float = 1e6
    add_qkv_bias: bool = True
    tie_word_embeddings: bool = False
    init_method_std: float = 0.02
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    layer_spec: Literal["auto", "local", "transformer_engine"] = "auto"
    head_chunk_rows: int = 256  # rows of logits alive at once in training


@dataclass
class TokenizerConfig:
    """Which tokenizer; the same path as given to preprocess."""

    path: str | None = None  # SentencePiece .model or folder with tokenizer.json


@dataclass
class ParallelConfig:
    """Layout of the processes and how they talk. Names are megatron-core's."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: int | None = None  # model chunks a pipeline rank
    num_layers_in_first_pipeline_stage: int | None = None  # None: like the others
    num_layers_in_last_pipeline_stage: int | None = None
    account_for_embedding_in_pipeline_split: bool = False  # the embedding takes a layer's place
    account_for_loss_in_pipeline_split: bool = False  # the head takes a layer's place
    context_parallel_size: int = 1
    sequence_parallel: bool = False
    use_distributed_optimizer: bool = True
    num_distributed_optimizer_instances: int = 1  # copies of the optimizer's shards over DP x CP
    grad_reduce_in_fp32: bool = True
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False
    bucket_size: int | None = None  # parameters; None: max(40e6, 1e6 x DP)
    distributed_timeout_minutes: float = 10.0
    tp_comm_overlap: bool = False  # Transformer Engine's products overlap with TP's collectives
    cp_comm_type: Literal["all_gather", "p2p"] = "all_gather"  # how CP ranks share keys and values


@dataclass
class SourceConfig:
    """One corpus of a blend."""

    prefix: str = ""  # path of .bin/.idx without the ending
    weight: float = 1.0
    name: str | None = None  # for reports; default: the prefix's last part


@dataclass
class DataConfig:
    """Token data and how rows are cut from it."""

    train: list[SourceConfig] = field(default_factory=list)
    valid: list[SourceConfig] = field(default_factory=list)  # empty: no validation
    sequence_length: int = 2048
    bos_per_sample: bool = True
    document_masks: bool = False  # attention and shift stay inside a document
    random_length: float = 0.0  # share of rows cut to a random length (LLaDA 0.01)
    seed: int = 1234  # order of documents and rows, and noise
    loader: Literal["torch", "dali"] = "torch"  # dali: copies to the GPU ahead of the step
    num_workers: int = 2  # loader processes a reading rank; 0: in the training process
    cache_folder: str | None = None  # indices; default: beside the first prefix
    build_index_in_job: bool = False  # also in a job of more than 8 ranks
    new_stream: int = 0  # 1, 2, ...: the data again from ordinal 0, in another order


@dataclass
class DiffusionConfig:
    """The objective, SPEC 1 to 3."""

    objective: Objective = "diffusion"
    weight: WeightName = "cart"
    cart_p: float = 0.1
    normalize_weight: bool = True
    denominator: Literal["masked_tokens", "maskable_tokens"] = "masked_tokens"
    t_min: float = 1e-3
    low_discrepancy: bool = True
    complementary: bool = False
    shift: bool = True  # the state before a masked token predicts it; false: its own
    attention: Literal["full", "anneal"] = "full"
    anneal_steps: int = 0  # for attention: anneal


@dataclass
class SftConfig:
    """What a sample becomes in the ``sft`` stage: SPEC 5 (``answer``) or SPEC 6 (``infill``)."""

    task: Literal["answer", "infill"] = "answer"
    truncation: Literal["random_with_input_pad", "random", "off"] = "random_with_input_pad"
    truncation_group_size: int = 0  # consecutive ordinals with one length; 0: the global batch
    pad: Literal["none", "longest", "max"] = "none"  # of answers under truncation: off
    pad_attended: bool = True  # whether other tokens see PAD behind an answer
    response_end: Literal["endoftext", "im_end"] = "endoftext"
    eos_as_one: bool = False  # the run of PAD that ends an answer is masked whole or not at all
    eos_loss: Literal["all", "first", "mean"] = "all"  # which of that run pay
    length_group_size: int = 0  # consecutive ordinals of like length; 0: random order
    width: Literal["micro_batch", "max"] = "micro_batch"  # that rows are padded dead to
    max_appended: int = 63  # infill: EOS behind a middle, to be deleted
    expand_probability: float = 0.5  # infill: that a mask swallows the next
    span_share: float = 0.5  # infill: middles that are any span; the others are whole lines


@dataclass
class RlConfig:
    """The ``rl`` stage, SPEC 8: problems, rollouts, judge, objective."""

    problems: list[str] = field(default_factory=list)  # JSONL files, as curate writes them
    valid: list[str] = field(default_factory=list)  # held-out ones; empty: no validation
    template: Literal["chat", "none"] = "chat"  # how prompts are rendered
    prompts_per_step: int = 96
    group_size: int = 16  # responses a prompt
    max_prompt_length: int = 512  # tokens; longer prompts are left out
    response_length: int = 768  # tokens of the canvas
    # rollouts
    temperature: float = 1.0
    top_p: float = 0.95
    alg: Literal[
        "origin", "maskgit_plus", "topk_margin", "entropy", "entropy_bound", "threshold"
    ] = "entropy"
    steps: int = 0  # of a rollout; 0: one token each
    block_length: int = 32  # 0: the canvas is one block
    cache: Literal["none", "prefix", "dual"] = "prefix"
    threshold: float = 0.9  # alg: threshold
    entropy_bound: float = 0.1  # alg: entropy_bound, nats
    rollout_rows: int = 128  # responses of one rank that are decoded together
    # objective
    policy_epochs: int = 2  # updates on one set of rollouts
    masks: Literal["coupled", "independent", "trace"] = "coupled"
    trace_steps: int = 1  # masks: trace; steps whose tokens are asked for
    t_low: float = 0.1  # masks' times are uniform in [t_low, t_high]
    t_high: float = 0.9
    weight: Literal["cart", "inverse_t"] = "cart"
    cart_p: float = 0.1
    aggregation: Literal["per_group_mask", "token_mean", "sequence_mean"] = "per_group_mask"
    ratio: Literal["token", "sequence"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl_coefficient: float = 0.0  # of k2 to the policy that made the rollouts
    pad_loss: Literal["none", "first"] = "none"  # first: on the token that ends a response
    substitution: bool = True  # copies of informative groups in place of the others
    # rewards
    exactly_one_block: bool = False  # a response with more than one fenced block has no program
    shuffled_rewards: bool = False  # a control: each group's rewards in random order
    isolation: Literal["auto", "namespaces", "bubblewrap", "process"] = "auto"
    judge_endpoints: list[str] = field(default_factory=list)  # of SandboxFusion; empty: judged here
    judge_workers: int = 0  # a data-parallel rank; 0: its share of the CPUs, or 8 an endpoint
    judge_cpu_seconds: int = 5  # of a program
    judge_wall_seconds: float = 15.0
    judge_memory_mb: int = 1024
    max_infrastructure_share: float = 0.1  # of a step's judgements that fail; more stops the run


@dataclass
class OptimizerConfig:
    """Optimizer and schedules."""

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-5
    min_lr_ratio: float = 0.1  # final lr / lr
    lr_decay_style: Literal["cosine", "linear", "constant"] = "cosine"
    lr_warmup_fraction: float = 0.01  # of train_steps
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    sgd_momentum: float = 0.9
    weight_decay: float = 0.1  # not on norms and biases
    clip_grad: float = 1.0  # 0: no clipping
    use_precision_aware_optimizer: bool = False  # the four types below; needs Transformer Engine
    main_grads_dtype: Literal["fp32", "bf16"] = "fp32"
    main_params_dtype: Literal["fp32", "fp16"] = "fp32"
    exp_avg_dtype: Literal["fp32", "bf16", "fp16", "fp8"] = "fp32"
    exp_avg_sq_dtype: Literal["fp32", "bf16", "fp16", "fp8"] = "fp32"
    optimizer_cpu_offload: bool = False  # states and update of a share of the weights on the host
    optimizer_offload_fraction: float = 1.0


@dataclass
class TrainingConfig:
    """How long, how much at a time, and in what precision."""

    train_steps: int = 0
    micro_batch_size: int = 1
    global_batch_size: int = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 1234  # initial weights, dropout
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_modules: list[RecomputeModule] = field(default_factory=lambda: ["core_attn"])
    recompute_method: Literal["uniform", "block"] = "uniform"
    recompute_num_layers: int = 1
    offload_modules: list[OffloadModule] = field(default_factory=list)  # inputs kept on the host
    eval_interval: int = 0  # steps; 0: never
    eval_samples: int = 64
    deterministic: bool = False
    compile: Literal["auto", "on", "off"] = "auto"  # parts of the local layers; auto: on a GPU
    gradient_accumulation_fusion: Literal["auto", "on", "off"] = (
        "auto"  # by apex; auto: where built
    )
    fused_cross_entropy: bool = False  # the head's softmax by Liger's kernel; needs a GPU, TP 1
    round_widths_to: int = 0  # tokens; widths that vary become multiples of it; 0: no rounding
    round_head_rows_to: int = 0  # rows; the head runs on a multiple of it; 0: on the masked rows
    cuda_graphs: bool = False  # of the layers; needs a GPU and one width


@dataclass
class Fp8Config:
    """Products of the layers in FP8, by Transformer Engine; attention and head stay bf16."""

    recipe: Literal["none", "delayed", "current", "blockwise", "mxfp8"] = "none"
    format: Literal["hybrid", "e4m3"] | None = None  # None: e4m3 of blocks, hybrid of tensors
    margin: int = 0  # recipe: delayed; scales are divided by 2**margin
    amax_history: int = 1024  # recipe: delayed; micro-batches that scales look back on
    amax_compute: Literal["max", "most_recent"] = "max"  # recipe: delayed; of that history
    first_layers_bf16: int = 0  # layers at the bottom whose products stay bf16
    last_layers_bf16: int = 0  # likewise at the top


@dataclass
class CheckpointConfig:
    """Where a run lives and what it starts from."""

    run_folder: str = ""  # everything the run writes
    init_from: str | None = (
        None  # checkpoint whose weights to start from; optimizer and position are new
    )
    init_override: bool = False  # start from other shift, mask id or tokenizer than init_from's
    save_interval: int = 0  # steps; 0: at the end only
    keep_last: int = 2
    keep_every: int = 0  # steps; checkpoints of its multiples stay for good; 0: none do
    async_save: bool = False
    optimizer_format: Literal["auto", "fully_reshardable", "dp_reshardable"] = "auto"
    host_memory_gb: float | None = None  # that saves may take on a node; null: what is free
    export_interval: int = 0  # steps between Hugging Face exports (and their checkpoints); 0: never


@dataclass
class FaultsConfig:
    """What a run does about bad steps, bad checkpoints and bad disks (docs/runbook.md)."""

    spike_window: int = 128  # applied updates whose medians are what is normal
    loss_spike_factor: float = 3.0  # times the median; 0: spikes of the loss are let through
    loss_spike_rise: float = 0.5  # nats above the median that a spike is at least
    grad_norm_spike_factor: float = 10.0  # times the median; 0: spikes of the norm are let through
    grad_norm_spike_floor: float = 10.0  # a smaller norm is no spike; clipping takes care of it
    patience: int = 8  # updates skipped in a row; at one more the run goes back to a checkpoint
    max_skips_in_window: int = 16  # of spike_window updates; one more goes back
    rollback_extra_steps: int = 100  # steps of data before the first bad one that are left out too
    max_rollbacks: int = 3  # without getting past the place of trouble; one more stops the run
    max_missed_saves: int = 3  # in a row; one more stops the run
    save_timeout_minutes: float = 30.0  # a save that takes longer is given up
    slow_save_seconds: float = 300.0  # a save that takes longer is told as a fault


@dataclass
class LoggingConfig:
    """What is reported, and where."""

    interval: int = 1  # steps
    plain_interval_seconds: float = 30.0  # without a terminal
    tensorboard: bool = False
    wandb_project: str | None = None  # needs the wandb package; key from WANDB_API_KEY


@dataclass
class WatchConfig:
    """A run's life on a cluster: hangs, signals, the time limit, restarts, stragglers."""

    # hangs: how long a rank may be in one phase; 0: any time
    step_limit_seconds: float = 300.0  # data, forward and backward, update: each
    first_step_limit_seconds: float = 540.0  # the same in the first step of a start
    start_limit_seconds: float = 1800.0  # before the first step; going back to a checkpoint
    save_limit_seconds: float = 540.0  # a checkpoint, without the wait for its writing
    validation_limit_seconds: float = 540.0
    rollout_limit_seconds: float = 3600.0  # rl: rollouts, judging
    hang_grace_seconds: float = 30.0  # from noticing a hang to the process's end
    heartbeat_seconds: float = 10.0  # between heartbeats
    # signals and limits
    catch_signals: bool = True  # USR1, TERM, INT: save at the end of the step, then end
    time_limit_minutes: float = 0.0  # of a start; 0: Slurm's alone
    time_limit_margin_seconds: float = 60.0  # between the last checkpoint and the limit
    unmeasured_save_seconds: float = 300.0  # what a save is taken to need before one was measured
    max_starts_without_progress: int = 3  # in a row at one step; more are refused; 0: no bound
    # ranks
    gc_interval_steps: int = 50  # all ranks collect garbage together; 0: Python decides
    straggler_interval_steps: int = 50  # between comparisons of ranks; 0: never
    straggler_factor: float = 1.5  # of the median time


@dataclass
class AlertsConfig:
    """Who is told when something happens to a run."""

    webhook_variable: str | None = None  # environment variable that holds the address (a secret)
    command: list[str] = field(default_factory=list)  # gets the message as JSON on its input
    kinds: list[str] = field(default_factory=list)  # that are told; empty: all but empty_batch
    min_interval_minutes: float = 30.0  # between messages of one kind
    timeout_seconds: float = 10.0  # of one message
    low_goodput: float = 0.0  # share below which is told, an hour after the start; 0: never
    old_checkpoint_minutes: float = 0.0  # age from which on is told; 0: never
    disk_free_gib: float = 0.0  # free space of the run folder below which is told; 0: never


@dataclass
class RunConfig:
    """One stage of one run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    rl: RlConfig = field(default_factory=RlConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    fp8: Fp8Config = field(default_factory=Fp8Config)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
