"""Training steps of this project and of plain transformers: seconds, memory, parts of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import record_function

from megatron_dream import device, parallel
from megatron_dream.config.schema import ModelConfig

from .measure import Peak, profile, timed_steps
from .trainee import Trainee, config_of


def train(
    fields: dict[str, Any],
    *,
    seconds: float = 30.0,
    warmup: int = 3,
    workers: int = 2,
    profiled_steps: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Steps of this project.

    Args:
        fields: of the configuration, by dotted path.
        seconds: of the measured window, about.
        warmup: steps before it.
        workers: loader processes.
        profiled_steps: after the window; 0: none.
        seed: of the data.
    """
    device.import_megatron()  # not part of what a model takes
    peak = Peak()
    trainee = Trainee(fields, seed=seed, workers=workers)
    trainee.mark_head()
    measured = timed_steps(trainee.step, warmup=warmup, seconds=seconds)
    memory = peak.bytes()
    waited = trainee.data_seconds / max(trainee.number, 1)
    answers = measured.pop("answers")
    parts = None
    if profiled_steps:
        parts = profile(trainee.step, profiled_steps, trainee.ranks.rank == 0)
    trainee.close()
    layout = trainee.layout
    return {
        "side": "ours",
        "layer_spec": trainee.config.model.layer_spec,
        "layout": {
            k: getattr(layout, k) for k in ("tp", "pp", "vp", "cp", "dp", "micro_batch_size")
        },
        "fields": fields,
        **measured,
        "memory": _largest(memory),
        "data_wait_seconds": waited,
        "breakdown": parts,
        **_counts([report for report, _ in answers], measured["steps"]),
        "losses": [report.loss for report, _ in answers],
        "gradient_norms": [norm for _, norm in answers],
    }


def _counts(reports: list[Any], steps: int) -> dict[str, float]:
    """Tokens of a step: all positions, and masked ones by the mean of the window."""
    window = reports[-steps:]
    return {
        "tokens_per_step": window[-1].positions,
        "masked_per_step": sum(report.masked_tokens for report in window) / steps,
        "first_loss": reports[0].loss,
        "first_masked": reports[0].masked_tokens,
    }


def _largest(memory: dict[str, int]) -> dict[str, int]:
    """Over all processes."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return memory
    values = torch.tensor(list(memory.values()), device=device.current_device())
    torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return dict(zip(memory, values.tolist(), strict=True))


@dataclasses.dataclass
class _Report:
    """What ``StepReport`` has, of the plain side."""

    loss: float
    masked_tokens: int
    positions: int


class PlainTrainee:
    """The same rows through transformers, torch's loss and AdamW.

    Weights are fp32, products bf16 by autocast (one process) or by FSDP's policy; attention is torch's
    FlashAttention on a GPU; the loss sees the logits of all positions, as a plain script's does.

    Args:
        fields: as for ``train``; model, data, diffusion, batch and precision are taken.
        compiles: the model by torch.compile.
        seed: of the data.
    """

    def __init__(self, fields: dict[str, Any], *, compiles: bool, seed: int = 0) -> None:
        from .stream import StrideRows

        self.config = config_of(fields)
        self.config.parallel = dataclasses.replace(type(self.config.parallel)())
        self.ranks = parallel.start(self.config.parallel)
        torch.manual_seed(self.config.training.seed)
        training, length = self.config.training, self.config.data.sequence_length
        self.is_low = training.precision == "bf16"
        self.model = plain_model(self.config.model).to(device.current_device())
        self._shard()
        if compiles:
            self.model.compile()
        on_gpu = device.device_type() == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=on_gpu
        )
        self.stream = StrideRows(length, self.config.model.vocab_size, self.config.diffusion, seed)
        self.rows = training.micro_batch_size
        self.count = training.global_batch_size // (self.rows * self.ranks.world_size)
        self.number = 0

    def _shard(self) -> None:
        """FSDP over all processes, a layer at a time."""
        if self.ranks.world_size == 1:
            return
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        low = torch.bfloat16 if self.is_low else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
        for layer in self.model.model.layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(self.model, mp_policy=policy)

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """The micro-batches of this process, as the product's data path cuts them."""
        from megatron_dream.data.batch import BatchLayout, to_batch

        layout = BatchLayout(self.rows, self.stream.sequence_length, True, True)
        first = self.number * self.config.training.global_batch_size
        for micro in range(self.count):
            begin = first + (micro * self.ranks.world_size + self.ranks.rank) * self.rows
            with record_function("kit.data"):
                rows = [self.stream[n] for n in range(begin, begin + self.rows)]
                buffer = layout.pack(rows).to(device.current_device())
                yield to_batch(buffer, layout, has_whole_rows=True)

    def step(self) -> tuple[_Report, float]:
        """One step with its update: (report, gradient norm)."""
        with record_function("kit.step"):
            batches = list(self.batches())
            masked = torch.stack([(batch["flags"] & 2).bool().sum() for batch in batches]).sum()
            if self.ranks.world_size > 1:
                torch.distributed.all_reduce(masked)
            total = torch.zeros((), device=device.current_device())
            for batch in batches:
                loss = self._loss(batch) / masked
                (loss * self.ranks.world_size).backward()  # FSDP takes the mean over processes
                total += loss.detach()
            with record_function("kit.optimizer"):
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if self.ranks.world_size > 1:
            torch.distributed.all_reduce(total)
        self.number += 1
        positions = self.config.training.global_batch_size * self.stream.sequence_length
        return _Report(float(total), int(masked), positions), float(norm)

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        kind = device.device_type()
        is_alone = self.ranks.world_size == 1
        with (
            torch.autocast(kind, torch.bfloat16, enabled=self.is_low and is_alone),
            _flash(kind == "cuda" and self.is_low),
        ):
            logits = plain_logits(self.model, batch["tokens"])
        with record_function("kit.head"):
            labels = batch["labels"].masked_fill((batch["flags"] & 2) == 0, -100)
            each = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), reduction="none"
            )
            return (each * batch["loss_weight"].flatten()).sum()


def _flash(wanted: bool) -> Any:
    """FlashAttention or an error: the plain side must not fall back to something slower unseen."""
    import contextlib

    from torch.nn.attention import SDPBackend, sdpa_kernel

    # cuDNN's is FlashAttention too, and on Hopper the faster.
    backends = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    return sdpa_kernel(backends, set_priority=True) if wanted else contextlib.nullcontext()


def plain_logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [B, S, V] with no mask at all: every position sees its row.

    The masks are given ready, none for each kind of layer. Otherwise transformers makes a causal one under
    torch.compile with torch before 2.14, where it does not ask ``is_causal`` (masking_utils.py), and
    FlashAttention takes no mask.
    """
    return model(tokens, attention_mask={"full_attention": None}, use_cache=False).logits


def plain_model(model: ModelConfig) -> Any:
    """Qwen2ForCausalLM of a shape, attending in both directions."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        max_position_embeddings=model.max_position_embeddings,
        rope_theta=model.rotary_base,
        tie_word_embeddings=model.tie_word_embeddings,
        attn_implementation="sdpa",
    )
    whole = Qwen2ForCausalLM(config).float()
    for module in whole.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    return whole


def plain(
    fields: dict[str, Any],
    *,
    seconds: float = 30.0,
    warmup: int = 3,
    profiled_steps: int = 2,
    compiles: bool | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Steps of plain transformers; arguments are ``train``'s.

    ``compiles``: None is yes on a GPU and no on a CPU, where it needs a compiler.
    """
    device.import_megatron()
    peak = Peak()
    is_compiled = device.device_type() == "cuda" if compiles is None else compiles
    trainee = PlainTrainee(fields, compiles=is_compiled, seed=seed)
    step: Callable[[], Any] = trainee.step
    measured = timed_steps(step, warmup=warmup, seconds=seconds)
    memory = peak.bytes()
    answers = measured.pop("answers")
    parts = profile(step, profiled_steps, trainee.ranks.rank == 0) if profiled_steps else None
    return {
        "side": "plain",
        "compiled": is_compiled,
        "fields": fields,
        **measured,
        "memory": _largest(memory),
        "breakdown": parts,
        **_counts([report for report, _ in answers], measured["steps"]),
        "losses": [report.loss for report, _ in answers],
    }
