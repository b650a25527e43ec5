"""What the forward pass of a layer keeps for the backward pass, tensor by tensor, in bytes a token.

Korthikanti et al. 2022 count 34 s b h bytes for a GPT layer and 5 a s^2 b for its scores. Here: SwiGLU
(2 f + f instead of 4 h + 4 h), grouped queries (keys and values of k < h columns), no dropout (no
masks), attention that keeps no scores, bidirectional or not (the same tensors). What a layer keeps
depends on its modules: ``transformer_engine`` and ``local`` differ. The local tables are measured
(tests/parallel/test_memory_model.py); Transformer Engine's are read from its source.
docs/planning.md derives both.
"""

from __future__ import annotations

from dataclasses import dataclass

from .job import Job
from .parameters import head_dim, kv_size

_STATISTIC = 4  # bytes of one fp32 number a token: a norm's 1 / rms, a head's log-sum-exp


@dataclass(frozen=True)
class Saved:
    """A tensor kept from one layer's forward pass.

    Attributes:
        name: what it is.
        part: norm, qkv, core (inside the core attention), proj, mlp: what is computed again together.
        bytes_per_token: on one rank.
    """

    name: str
    part: str
    bytes_per_token: float


def layer_tensors(job: Job) -> tuple[Saved, ...]:
    """All that a layer keeps where nothing is computed again."""
    return _fused_tensors(job) if job.spec == "transformer_engine" else _local_tensors(job)


def _fused_tensors(job: Job) -> tuple[Saved, ...]:
    hidden, kv, ffn = job.model.hidden_size, kv_size(job), job.model.ffn_hidden_size
    tp, sp, fp8 = job.layout.tp, job.sequence_shards, job.precision == "fp8"
    wide = job.activation_bytes
    narrow = 1 if fp8 else wide  # inputs of the products
    heads = job.model.num_attention_heads / tp
    tensors = [
        Saved("input of the attention's norm", "norm", wide * hidden / sp),
        Saved("its 1 / rms", "norm", _STATISTIC / sp),
        Saved("input of the query, key, value product", "norm_output", narrow * hidden / sp),
        Saved("query, key, value", "qkv", wide * (hidden + 2 * kv) / tp),
        Saved("log-sum-exp of the scores", "core", _STATISTIC * heads),
        Saved("output of the attention", "proj", narrow * hidden / tp),
        Saved("input of the MLP's norm", "norm", wide * hidden / sp),
        Saved("its 1 / rms", "mlp", _STATISTIC / sp),
        Saved("input of the gate and up product", "mlp", narrow * hidden / sp),
        Saved("gate and up", "mlp", wide * 2 * ffn / tp),
        Saved("input of the down product", "mlp", narrow * ffn / tp),
    ]
    if fp8:  # the attention keeps its own copy beside the product's FP8 input
        tensors.append(Saved("output of the attention, bf16", "core", wide * hidden / tp))
    return tuple(tensors)


def _local_tensors(job: Job) -> tuple[Saved, ...]:
    hidden, kv, ffn = job.model.hidden_size, kv_size(job), job.model.ffn_hidden_size
    tp, sp, wide = job.layout.tp, job.sequence_shards, job.activation_bytes
    heads = job.model.num_attention_heads / tp
    # Rows that are gathered over the context-parallel group are kept gathered.
    gathered = job.layout.cp * kv / tp
    # Cosines and sines of queries and of keys, of positions: the rows of a micro-batch share them.
    angles = wide * 2 * head_dim(job) / job.layout.micro_batch_size
    tensors = [
        *_local_norm(job, "input of the attention's norm"),
        Saved("input of the query, key, value product", "norm_output", wide * hidden / sp),
        Saved("cosines and sines", "rotation", angles),
        Saved("query, key, value", "qkv", wide * (hidden / tp + 2 * gathered)),
        Saved("log-sum-exp of the scores", "core", _STATISTIC * heads),
        Saved("output of the attention, by head", "core", wide * hidden / tp),
        Saved("output of the attention", "proj", wide * hidden / tp),
        *_local_norm(job, "input of the MLP's norm"),
        Saved("input of the gate and up product", "mlp_input", wide * hidden / sp),
        Saved("gate and up", "mlp", wide * 2 * ffn / tp),
        Saved("input of the down product", "mlp", wide * ffn / tp),
    ]
    return tuple(tensors)


def _local_norm(job: Job, name: str) -> list[Saved]:
    """fp32 has a function of its own; in bf16 torch keeps the fp32 input and what it normalised."""
    width = job.model.hidden_size / job.sequence_shards
    tensors = [
        Saved(name, "norm", 4 * width),
        Saved("its 1 / rms", "norm", _STATISTIC / job.sequence_shards),
    ]
    if job.activation_bytes == 2:
        tensors.append(Saved("the same, normalised", "norm", 2 * width))
    return tensors


def norm_bytes(job: Job) -> float:
    """Kept by the final norm, of one micro-batch."""
    if job.spec == "local":
        per_token = sum(tensor.bytes_per_token for tensor in _local_norm(job, "input"))
    else:
        per_token = (
            job.activation_bytes * job.model.hidden_size + _STATISTIC
        ) / job.sequence_shards
    return per_token * job.tokens_per_microbatch


def kept_tensors(job: Job) -> tuple[Saved, ...]:
    """What a layer keeps under selective recomputation and offloading; without either, all."""
    dropped = {
        "core_attn": {"core"},
        "mlp": {"mlp"},
        "layernorm": {"norm_output", "mlp_input"},
    }
    offloaded = {"qkv_linear": {"norm_output"}, "core_attn": {"qkv"}, "attn_proj": {"proj"}}
    gone = {part for module in job.recompute.modules for part in dropped[module]}
    gone |= {part for module in job.offload_modules for part in offloaded[module]}
    kept = [tensor for tensor in layer_tensors(job) if tensor.part not in gone]
    if "core_attn" in job.recompute.modules:
        # Its inputs are kept as they came: values as a view, which keeps the whole projection.
        width = (job.model.hidden_size + kv_size(job)) / job.layout.tp
        kept.append(Saved("query, key, value, as projected", "qkv", job.activation_bytes * width))
    return tuple(kept)


def layer_bytes(job: Job) -> float:
    """Kept of one layer and micro-batch on one rank; full recomputation is ``chunk_bytes``' matter."""
    per_token = sum(tensor.bytes_per_token for tensor in kept_tensors(job))
    return per_token * job.tokens_per_microbatch


def full_layer_bytes(job: Job) -> float:
    """Of one layer with everything at hand: what recomputation brings back, one piece at a time."""
    per_token = sum(tensor.bytes_per_token for tensor in layer_tensors(job))
    return per_token * job.tokens_per_microbatch


def boundary_bytes(job: Job) -> float:
    """Hidden states between two layers, on one rank."""
    width = job.activation_bytes * job.model.hidden_size / job.sequence_shards
    return width * job.tokens_per_microbatch


def chunk_bytes(job: Job, num_layers: int) -> float:
    """Kept of one micro-batch in a chunk of ``num_layers`` layers."""
    recompute = job.recompute
    if recompute.granularity != "full":
        return num_layers * layer_bytes(job)
    if recompute.method == "block":
        pieces = min(recompute.num_layers, num_layers)
        return pieces * boundary_bytes(job) + (num_layers - pieces) * layer_bytes(job)
    return -(-num_layers // recompute.num_layers) * boundary_bytes(job)


def recomputed_bytes(job: Job, num_layers: int) -> float:
    """What one piece's second forward pass brings back at the most, beside what is kept by then.

    A layer's MLP comes back before its attention does, and is gone by then. Where only the first layers
    of a chunk are recomputed, the others have been through their backward pass.
    """
    recompute, tokens = job.recompute, job.tokens_per_microbatch
    if recompute.granularity == "none" or num_layers == 0:
        return 0.0
    if recompute.granularity == "selective":
        kept = {tensor.part for tensor in kept_tensors(job)}
        mlp = attention = 0.0
        for tensor in layer_tensors(job):
            if tensor.part in kept:
                continue
            if tensor.part in ("mlp", "mlp_input"):
                mlp += tensor.bytes_per_token
            else:
                attention += tensor.bytes_per_token
        return max(mlp, attention) * tokens
    if recompute.method == "block":
        others = num_layers - min(recompute.num_layers, num_layers)
        return full_layer_bytes(job) - boundary_bytes(job) - others * layer_bytes(job)
    # The piece's input is kept already.
    return min(recompute.num_layers, num_layers) * full_layer_bytes(job) - boundary_bytes(job)


def working_bytes(job: Job) -> float:
    """Tensors that live for a moment in a layer's backward pass, at its widest place, the MLP.

    The gradient of the output, gathered; of the down product's input; of gate and up; of the layer's
    input, gathered; and that input itself, gathered again for the weights' gradient.
    """
    hidden, ffn = job.model.hidden_size, job.model.ffn_hidden_size
    per_token = 3 * hidden + 3 * ffn / job.layout.tp
    return job.activation_bytes * per_token * job.tokens_per_microbatch
