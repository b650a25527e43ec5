"""Seconds of one layer and one micro-batch on one rank: products, attention, elementwise, collectives.

Symbols: T tokens of the micro-batch on this rank, h hidden, k width of keys, f FFN, t TP.
"""

from __future__ import annotations

from dataclasses import dataclass

from .communication import context_group, tensor_group
from .efficiency import Efficiency
from .hardware import Gpu
from .job import Job
from .parameters import head_dim, kv_size, layer_sizes, table_rows


@dataclass(frozen=True)
class Seconds:
    """Parts of a time; they add up."""

    products: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    tensor_parallel: float = 0.0  # exposed
    context_parallel: float = 0.0  # exposed
    head: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return (
            self.products
            + self.attention
            + self.elementwise
            + self.tensor_parallel
            + self.context_parallel
            + self.head
        )

    def plus(self, other: Seconds, times: float = 1.0) -> Seconds:
        """``self + times x other``."""
        return Seconds(
            *(
                getattr(self, name) + times * getattr(other, name)
                for name in self.__dataclass_fields__
            )
        )


def layer_products(job: Job) -> dict[str, tuple[int, int]]:
    """(K, N) of each matrix product of a layer on one rank: [T, K] x [K, N]."""
    hidden, ffn, tp = job.model.hidden_size, job.model.ffn_hidden_size, job.layout.tp
    return {
        "qkv": (hidden, (hidden + 2 * kv_size(job)) // tp),
        "proj": (hidden // tp, hidden),
        "gate_up": (hidden, 2 * ffn // tp),
        "down": (ffn // tp, hidden),
    }


def attention_flops(job: Job) -> float:
    """Of the scores and their product with the values, forward, one layer and micro-batch."""
    width = head_dim(job) * job.model.num_attention_heads / job.layout.tp
    whole = 4.0 * job.tokens_per_microbatch * job.sequence_length * width
    return whole / 2 if job.is_causal else whole


def forward_seconds(job: Job, gpu: Gpu, efficiency: Efficiency) -> Seconds:
    """Of a layer's forward pass."""
    products = _product_seconds(job, gpu, efficiency) + _launches(job, efficiency, 0, 4)
    attention = attention_flops(job) / (
        gpu.attention_peak(job.precision) * efficiency.attention_forward
    )
    return Seconds(
        products=products,
        attention=attention,
        elementwise=_elementwise(job, gpu, efficiency, _forward_bytes(job)),
        # Gather before, scatter after: attention and MLP.
        tensor_parallel=_tensor_parallel(job, gpu, efficiency, 4),
        context_parallel=_context_parallel(job, gpu, efficiency, attention, 1.0),
    )


def backward_seconds(job: Job, gpu: Gpu, efficiency: Efficiency) -> Seconds:
    """Of a layer's backward pass, with what is computed again."""
    # Five products of tiles where the forward pass has two.
    attention = (
        2.5
        * attention_flops(job)
        / (gpu.attention_peak(job.precision) * efficiency.attention_backward)
    )
    whole = Seconds(
        # Of the gradients to inputs, those behind the output projections are gathered in pieces.
        products=2 * _product_seconds(job, gpu, efficiency) + _launches(job, efficiency, 6, 2),
        attention=attention,
        elementwise=_elementwise(job, gpu, efficiency, _backward_bytes(job)),
        # The gradients' gathers are waited for; their scatters and the inputs' second gathers run
        # beside the weights' gradients.
        tensor_parallel=_tensor_parallel(job, gpu, efficiency, 2),
        context_parallel=_context_parallel(job, gpu, efficiency, attention, 2.0),
    )
    return whole.plus(recomputed_seconds(job, gpu, efficiency))


def recomputed_seconds(job: Job, gpu: Gpu, efficiency: Efficiency) -> Seconds:
    """Of the second forward pass, averaged over the layers of a chunk."""
    forward, recompute = forward_seconds(job, gpu, efficiency), job.recompute
    if recompute.granularity == "full":
        share = 1.0
        if recompute.method == "block":
            layers = job.model.num_layers / (job.layout.pp * job.layout.vp)
            share = min(1.0, recompute.num_layers / layers)
        return Seconds().plus(forward, share)
    again = Seconds()
    if "core_attn" in recompute.modules:
        again = again.plus(
            Seconds(attention=forward.attention, context_parallel=forward.context_parallel)
        )
    if "mlp" in recompute.modules:
        sizes = layer_products(job)
        own = sum(sizes[name][0] * sizes[name][1] for name in ("gate_up", "down"))
        share = own / sum(k * n for k, n in sizes.values())
        again = again.plus(
            Seconds(
                products=forward.products * share,
                elementwise=forward.elementwise * share,
                tensor_parallel=forward.tensor_parallel / 2,
            )
        )
    if "layernorm" in recompute.modules:
        norms = 2 * 2 * job.activation_bytes * job.model.hidden_size / job.sequence_shards
        again = again.plus(Seconds(elementwise=_elementwise(job, gpu, efficiency, norms)))
    return again


def head_seconds(job: Job, gpu: Gpu, efficiency: Efficiency) -> float:
    """Of the output layer and loss, forward and backward, on the expected share of rows.

    Three products of 2 R V/t h FLOPs. On masked rows, each chunk of C rows also reads the table twice,
    writes its part of the table's gradient and adds it to the sum in fp32; a product takes the longer
    of its FLOPs and its bytes. Gathering the rows under sequence parallelism is waited for.
    """
    hidden, columns = job.model.hidden_size, table_rows(job)
    rows = job.head.share * job.tokens_per_microbatch
    precision = "fp32" if job.precision == "fp32" else "bf16"
    flops = gpu.matmul_flops(precision) * efficiency.matmul
    bandwidth = gpu.memory_gb_s * 1e9 * efficiency.memory
    wide = job.activation_bytes
    gather = tensor_group(job).gather_seconds(
        2.0 * job.tokens_per_microbatch * hidden * wide, gpu, efficiency
    )
    if job.head.chunk_rows is None:
        logits = 4 * rows * columns * wide / bandwidth
        return 6 * rows * columns * hidden / flops + 3 * efficiency.fixed_seconds + logits + gather
    chunks = max(1.0, rows / job.head.chunk_rows)
    chunk = rows / chunks
    table = columns * hidden
    product = 2 * chunk * table / flops
    read = wide * table / bandwidth
    seconds = 3 * max(product, read) + 3 * efficiency.fixed_seconds
    if wide == 2:  # the part is written, read and added to fp32
        seconds += (2 + 4 + 4) * table / bandwidth
    # Logits pass through memory about six times: made, cast, exponentiated, summed, scaled, cast.
    seconds += chunk * columns * (2 + 2 + 4 * 8) / bandwidth
    # In the backward pass the fp32 sum is scaled and added to the gradient buffer.
    return chunks * seconds + (8 + 4 + 2 * job.states.gradient) * table / bandwidth + gather


def gradient_sum_seconds(job: Job, gpu: Gpu, efficiency: Efficiency) -> float:
    """Of adding one layer's weight gradients of a micro-batch to the gradient buffer.

    Fused into the product: the buffer is read and written. Else the gradient is written, read, and
    added.
    """
    per_parameter = 2.0 * job.states.gradient
    if not job.fuses_gradient_sum:
        per_parameter += 2 * job.activation_bytes
    return sum(layer_sizes(job)) * per_parameter / (gpu.memory_gb_s * 1e9 * efficiency.memory)


def _product_seconds(job: Job, gpu: Gpu, efficiency: Efficiency) -> float:
    rate = gpu.matmul_flops(job.precision) * efficiency.matmul
    flops = sum(2.0 * job.tokens_per_microbatch * k * n for k, n in layer_products(job).values())
    return flops / rate


def _launches(job: Job, efficiency: Efficiency, whole: int, cut: int) -> float:
    """Fixed seconds of ``whole`` products, and of ``cut`` ones that overlap with TP's collectives.

    An overlapped one runs in TP pieces, each a product of its own (Transformer Engine's ring exchange).
    """
    pieces = job.layout.tp if job.overlap_tp else 1
    return (whole + cut * pieces) * efficiency.fixed_seconds


def _elementwise(job: Job, gpu: Gpu, efficiency: Efficiency, bytes_per_token: float) -> float:
    moved = bytes_per_token * job.tokens_per_microbatch
    return moved / (gpu.memory_gb_s * 1e9 * efficiency.memory)


def _forward_bytes(job: Job) -> float:
    """Read and written a token outside products and attention: norms, rotation, SwiGLU, residuals, casts."""
    hidden, kv, ffn = job.model.hidden_size, kv_size(job), job.model.ffn_hidden_size
    tp, sp, wide = job.layout.tp, job.sequence_shards, job.activation_bytes
    moved = wide * (
        2 * 2 * hidden / sp  # two norms: read, write
        + 2 * 3 * hidden / sp  # two residual sums: read both, write
        + 2 * (hidden + 2 * kv) / tp  # rotation of queries and keys; values made contiguous
        + 3 * ffn / tp  # SwiGLU: reads gate and up, writes their product
    )
    if job.precision == "fp8":  # the greatest value is sought, then the cast and its transpose made
        inputs = 2 * hidden / sp + hidden / tp + ffn / tp
        moved += (wide + wide + 2) * inputs
    return moved


def _backward_bytes(job: Job) -> float:
    hidden, kv, ffn = job.model.hidden_size, kv_size(job), job.model.ffn_hidden_size
    tp, sp, wide = job.layout.tp, job.sequence_shards, job.activation_bytes
    moved = wide * (
        2 * 3 * hidden / sp  # norms: read gradient and input, write
        + 2 * 3 * hidden / sp  # residual sums of gradients
        + 2 * (hidden + 2 * kv) / tp
        + 5 * ffn / tp  # SwiGLU: reads gradient, gate and up, writes the gradients of both
    )
    if job.precision == "fp8":  # the four products' incoming gradients
        gradients = hidden / sp + (hidden + 2 * kv) / tp + hidden / sp + 2 * ffn / tp
        moved += (wide + wide + 2) * gradients
    return moved


def _tensor_parallel(job: Job, gpu: Gpu, efficiency: Efficiency, gathers: int) -> float:
    """Exposed seconds of ``gathers`` all-gathers or reduce-scatters of the hidden states.

    Without sequence parallelism two of them are one all-reduce, and in the backward pass it runs beside
    the weights' gradients. Where products overlap with them in TP pieces, one piece is left.
    """
    group = tensor_group(job)
    size = job.activation_bytes * job.model.hidden_size * job.tokens_per_microbatch
    if not job.sequence_parallel and gathers == 2:
        return 0.0
    seconds = gathers * group.gather_seconds(size, gpu, efficiency)
    return seconds / job.layout.tp if job.overlap_tp else seconds


def _context_parallel(
    job: Job, gpu: Gpu, efficiency: Efficiency, attention: float, passes: float
) -> float:
    """Keys and values (backward: their gradients too) of the other ranks.

    Transformer Engine sends them round the ring while it computes on those at hand: what is longer
    counts. The local attention gathers first.
    """
    group = context_group(job)
    if group.size == 1:
        return 0.0
    width = 2 * kv_size(job) / job.layout.tp * job.activation_bytes
    seconds = passes * group.gather_seconds(
        width * job.tokens_per_microbatch * group.size, gpu, efficiency
    )
    if job.spec == "local":
        return seconds
    return max(0.0, seconds - attention * (group.size - 1) / group.size)
