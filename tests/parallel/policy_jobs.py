"""Jobs of test_policy.py: one set of judged groups, the policy's updates over it on any layout."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from megatron_dream import parallel
from megatron_dream.config.schema import ModelConfig, ParallelConfig, RlConfig, RunConfig
from megatron_dream.diffusion.noise import NoiseStream
from megatron_dream.rl.batch import Group, build_update, micro_batches
from megatron_dream.rl.objective import Half

VOCAB, RESPONSE, RESPONSES, GROUPS = 53, 12, 3, 4
MASK, PAD = VOCAB - 1, VOCAB - 2
NOISE = NoiseStream(5, "rl")


@dataclasses.dataclass
class PolicyCase:
    """One configuration of two updates."""

    parallel: dict[str, Any] = dataclasses.field(default_factory=dict)
    rl: dict[str, Any] = dataclasses.field(default_factory=dict)
    micro_batch_size: int = 1
    is_compared: bool = False  # the first update with old log-probabilities, which are its own
    is_reference: bool = False  # the last update's gradient by plain loops and autograd


def groups_of(seed: int = 0) -> list[Group]:
    """Prompts of 1 to 7 tokens; early ends, a response that is not there, a group that teaches nothing."""
    generator, found = np.random.default_rng(seed), []
    for number in range(GROUPS):
        lengths = generator.integers(1, RESPONSE + 1, RESPONSES)
        asked = np.arange(RESPONSE)[None] < lengths[:, None]
        advantage = generator.normal(size=RESPONSES)
        if number == 1:
            asked[2], advantage[2] = False, 0.0
        if number == 2:
            asked[:], advantage[:] = False, 0.0
        found.append(
            Group(
                tuple(generator.integers(0, VOCAB - 2, generator.integers(1, 8)).tolist()),
                generator.integers(0, VOCAB - 2, (RESPONSES, RESPONSE)).astype(np.int32),
                np.stack([generator.permutation(RESPONSE) for _ in range(RESPONSES)]).astype(
                    np.int32
                ),
                asked,
                advantage,
            )
        )
    return found


def run_config(case: PolicyCase) -> RunConfig:
    config = RunConfig(parallel=ParallelConfig(**case.parallel), rl=RlConfig(**case.rl))
    config.parallel.use_distributed_optimizer = False
    config.model = ModelConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=48,
        vocab_size=VOCAB,
        layer_spec="local",
        head_chunk_rows=8,
        init_method_std=0.2,
    )
    config.training.precision, config.training.train_steps = "fp32", 4
    config.training.micro_batch_size = case.micro_batch_size
    config.training.global_batch_size = 2 * GROUPS * RESPONSES
    config.optimizer.optimizer, config.optimizer.lr = "sgd", 0.3
    config.optimizer.lr_decay_style, config.optimizer.lr_warmup_fraction = "constant", 0.0
    config.optimizer.weight_decay, config.optimizer.clip_grad = 0.0, 0.0
    return config


class PolicyRun:
    """A model on one layout, and the two updates' rows of this rank."""

    def __init__(self, case: PolicyCase) -> None:
        from megatron_dream.model.build import build_model
        from megatron_dream.rl.policy import PolicyRunner
        from megatron_dream.training.optimizer import (
            build_optimizer,
            build_scheduler,
            wrap_data_parallel,
        )

        self.case, self.config = case, run_config(case)
        self.ranks = parallel.start(self.config.parallel)
        chunks = build_model(
            self.config.model,
            self.config.parallel,
            self.config.training,
            self.ranks,
            variable_lengths=True,
        )
        self.model = wrap_data_parallel(chunks, self.config)
        self.optimizer = build_optimizer(self.model, self.config)
        self.scheduler = build_scheduler(self.optimizer, self.config)
        self.runner = PolicyRunner(self.model, self.config.rl, self.ranks)
        self.groups = groups_of()
        self.updates = [
            build_update(self.groups, self.config.rl, NOISE, epoch * GROUPS) for epoch in range(2)
        ]
        self.batches = [
            list(
                micro_batches(
                    update,
                    micro_batch_size=case.micro_batch_size,
                    dp_rank=self.ranks.dp_rank,
                    dp_size=self.ranks.dp_size,
                    mask_id=MASK,
                    pad_id=PAD,
                    device=torch.device("cpu"),
                )
            )
            for update in self.updates
        ]

    def clear(self) -> None:
        for chunk in self.model:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()

    def first(self, is_compared: bool = False) -> Any:
        """The first update, with its step; the second one's old log-probabilities come before it.

        ``is_compared``: with old log-probabilities of its own rows, which change nothing.
        """
        from megatron_dream.training.optimizer import update

        old = self.runner.log_probabilities(self.batches[1])
        same = self.runner.log_probabilities(self.batches[0]) if is_compared else None
        self.clear()
        report = self.runner.run(self.batches[0], same, self.updates[0].num_rows)
        self.scheduler.step(1)
        assert update(self.optimizer).applied
        self.clear()
        return report, old

    def tensors(self) -> dict[str, Any]:
        from megatron_dream.checkpoint.state import unwrap
        from megatron_dream.model.initialize import global_parameters

        found = {}
        for chunk in self.model:
            for name, parameter in global_parameters(unwrap(chunk)):
                is_cut = getattr(parameter, "tensor_model_parallel", False)
                axis = parameter.partition_dim if is_cut else None
                found[name] = (axis, parameter.main_grad.detach().double().numpy().copy())
        return found


def policy(case: PolicyCase) -> dict[str, Any]:
    """Both updates' reports, and the gradient of the second."""
    run = PolicyRun(case)
    if case.is_reference:
        before = plain_log_probabilities(run)
        first, _ = run.first()
        second = plain_update(run, before)
    else:
        first, old = run.first(case.is_compared)
        report = run.runner.run(run.batches[1], old, run.updates[1].num_rows)
        second = dataclasses.asdict(report)
    is_first = run.ranks.dp_rank == 0
    return {
        "first": dataclasses.asdict(first),
        "second": second,
        "tp_rank": run.ranks.tp_rank,
        "gradients": run.tensors() if is_first else {},
    }


def _log_probabilities_of(run: PolicyRun, half: Any, group: Group, number: int) -> torch.Tensor:
    """[L] of one response under one mask, by the whole model's logits."""
    from megatron_dream.checkpoint.state import unwrap

    response = torch.from_numpy(group.tokens_GL[number].astype(np.int64))
    masked = torch.from_numpy(half.masked_L)
    row = torch.cat([torch.tensor(group.prompt), torch.where(masked, MASK, response)])
    logits = unwrap(run.model[0])(row[None], None, None)[0].float()
    shifted = logits[len(group.prompt) - 1 : -1] / run.config.rl.temperature
    return shifted.log_softmax(-1).gather(1, response[:, None])[:, 0]


def _masks(run: PolicyRun) -> Any:
    """(group, half, response) with its mask, drawn anew as SPEC 8 says; traces as the engine draws them."""
    from megatron_dream.rl.batch import _halves

    rl = run.config.rl
    for slot, group in enumerate(run.groups):
        ordinal = GROUPS + slot
        drawn = _halves(group, rl, NOISE, ordinal) if rl.masks == "trace" else None
        for h in range(2):
            apart = (1 << 62) if h and rl.masks == "independent" else 0
            t = 0.1 + 0.8 * NOISE.time(ordinal + apart, t_min=0.0, low_discrepancy=False)
            masked = NOISE.positions(ordinal + apart, RESPONSE) < t
            if h and rl.masks == "coupled":
                t, masked = 1.0 - t, ~masked
            for number in range(RESPONSES):
                half = Half(t, masked, masked) if drawn is None else drawn[h][number]
                yield slot, group, h, number, half


def plain_log_probabilities(run: PolicyRun) -> dict[Any, torch.Tensor]:
    with torch.no_grad():
        return {
            (slot, h, number): _log_probabilities_of(run, half, group, number)
            for slot, group, h, number, half in _masks(run)
        }


def _cart(masked: np.ndarray, n: int, p: float) -> float:
    return sum(
        0.5 * p * (1 - p) ** (abs(n - m) - 1)
        for m in range(len(masked))
        if m != n and not masked[m]
    )


def plain_update(run: PolicyRun, old: dict[Any, torch.Tensor]) -> dict[str, float]:
    """The second update by loops over tokens, SPEC 8's words one after the other; autograd's gradient."""
    rl, parts = run.config.rl, []
    log_ratios: dict[Any, Any] = {}
    for slot, group, h, number, half in _masks(run):
        new = _log_probabilities_of(run, half, group, number)
        for n in range(RESPONSE):
            if half.loss_L[n] and group.is_asked_GL[number, n]:
                weight = _cart(half.masked_L, n, rl.cart_p) if rl.weight == "cart" else 1 / half.t
                if weight == 0:
                    continue
                log_ratio = new[n] - old[slot, h, number][n]
                log_ratios.setdefault((slot, number), []).append(log_ratio)
                parts.append((slot, h, number, weight, group.advantage_G[number], log_ratio))
    losses = []
    for slot, h, number, weight, advantage, log_ratio in parts:
        if rl.ratio == "sequence":
            mine = log_ratios[slot, number]
            log_ratio = sum(mine) / len(mine)
        r = log_ratio.exp()
        clipped = r.clamp(1 - rl.clip_low, 1 + rl.clip_high)
        loss = torch.maximum(-advantage * r, -advantage * clipped)
        losses.append((slot, h, number, weight, loss + rl.kl_coefficient * log_ratio**2 / 2))
    total = _aggregate(losses, rl.aggregation)
    total.backward()
    return {"loss": float(total)}


def _aggregate(losses: list[Any], kind: str) -> Any:
    if kind == "token_mean":
        return sum(w * loss for *_, w, loss in losses) / sum(w for *_, w, _ in losses)
    if kind == "per_group_mask":
        parts: dict[Any, list[Any]] = {}
        for slot, h, _, w, loss in losses:
            parts.setdefault((slot, h), []).append((w, loss))
        means = [sum(w * x for w, x in part) / sum(w for w, _ in part) for part in parts.values()]
        return sum(means) / len(means)
    responses: dict[Any, list[Any]] = {}
    for slot, _, number, w, loss in losses:
        responses.setdefault((slot, number), []).append(w * loss)
    return sum(sum(part) / len(part) for part in responses.values()) / len(responses)
