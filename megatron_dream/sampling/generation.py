"""``diffusion_generate``: fill the masks of a canvas step by step (SPEC 7, without caches).

Where it sits: used alike by RL rollouts, the command line, evaluation and exported folders. A
model gives unshifted logits; the shift (hidden state i - 1 predicts token i) happens here.
Differs from the public code: numbers opened are counted a row, not by the batch's mean; a step that
opens nothing runs no forward pass; known tokens are never overwritten; rows are independent.
Shapes: B rows, S positions, V vocabulary, N positions that may open, row after row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .canvas import Canvas, build_canvas
from .decode import Choice, choose
from .history import History
from .randomness import RowRandom, fresh_seed
from .sampling_config import ADAPTIVE, SamplingConfig
from .schedule import Schedule
from .selection import select

TokensHook = Callable[[int | None, torch.Tensor, torch.Tensor | None], torch.Tensor]
LogitsHook = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


class LogitsModel(Protocol):
    """What the sampler asks of a model."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
    ) -> Any:
        """Logits [B, S, V], or an object that has them as ``logits``; no shift applied."""


@dataclass(frozen=True)
class State:
    """The canvas after a step; never written to again.

    Attributes:
        step: -1 before the first.
        x_BS: int64.
        opened_BS: bool, what this step opened.
        num_masked: masks left in all rows.
        num_forward: forward passes so far.
    """

    step: int
    x_BS: torch.Tensor
    opened_BS: torch.Tensor
    num_masked: int
    num_forward: int


@dataclass(frozen=True)
class SamplingOutput:
    """A finished generation.

    Attributes:
        sequences: int64 [B, S]: padding, prompt, response.
        prompt_length: padded; the response begins here.
        history: with ``output_history``.
        num_forward: forward passes run.
        seed: what was drawn from; pass it to repeat the draw.
    """

    sequences: torch.Tensor
    prompt_length: int
    history: History | None
    num_forward: int
    seed: int


def diffusion_generate(
    model: LogitsModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    config: SamplingConfig,
    tokens_hook: TokensHook | None = None,
    logits_hook: LogitsHook | None = None,
    row_ids: Sequence[int] | None = None,
    max_position: int | None = None,
    on_state: Callable[[State], None] | None = None,
) -> SamplingOutput:
    """Append ``max_new_tokens`` masks to each prompt and fill all masks.

    Args:
        model: called with input_ids, attention_mask and position_ids by name (the last two None
            where no row is padded).
        input_ids: int64 [R, P]; masks inside are filled too.
        attention_mask: [R, P], 0 on left padding.
        config: how.
        tokens_hook: called (None, x, None) before the loop, then (step, x, shifted logits) after
            each step, logits None where the step opened nothing and ran no forward pass; returns x.
        logits_hook: called (step, x, shifted logits [B, S, V]) where logits are made; returns them.
        row_ids: number of each prompt among all of the run; a row's draws depend on
            (seed, this number, sample number) and on nothing else of the batch.
        max_position: longest sequence the model knows.
        on_state: told every state, for progress.

    Raises:
        ValueError: one sentence: what is wrong and what to do.
    """
    hooks = _Hooks(tokens_hook, logits_hook)
    run = _Run(model, input_ids, attention_mask, config, hooks, row_ids, max_position)
    for state in run.states():
        if on_state is not None:
            on_state(state)
    return run.output()


def diffusion_stream(
    model: LogitsModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    config: SamplingConfig,
    tokens_hook: TokensHook | None = None,
    logits_hook: LogitsHook | None = None,
    row_ids: Sequence[int] | None = None,
    max_position: int | None = None,
) -> Iterator[State]:
    """``diffusion_generate`` as a generator: the state before the loop, then after each change.

    Bad arguments raise here, before the first state is asked for.
    """
    hooks = _Hooks(tokens_hook, logits_hook)
    run = _Run(model, input_ids, attention_mask, config, hooks, row_ids, max_position)
    return run.states()


@dataclass(frozen=True)
class _Hooks:
    tokens: TokensHook | None
    logits: LogitsHook | None


class _Run:
    """One generation in progress."""

    def __init__(
        self,
        model: LogitsModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        config: SamplingConfig,
        hooks: _Hooks,
        row_ids: Sequence[int] | None,
        max_position: int | None,
    ) -> None:
        config = config.resolved()
        if config.seed is None:
            config = dataclasses.replace(config, seed=fresh_seed())
        self.config = config
        self.model = model if callable(model) else model.forward
        self.tokens_hook, self.logits_hook = hooks.tokens, hooks.logits
        self.canvas: Canvas = build_canvas(input_ids, attention_mask, config, row_ids, max_position)
        self.schedule = Schedule(config.steps or 1, config.eps)
        self.random = RowRandom(config.seed or 0, self.canvas.keys)
        self.x_BS = self.canvas.x_BS
        self.history: History | None = None
        self.num_forward = 0
        self._count()

    def _count(self) -> None:
        """Masks left in each row, on the CPU."""
        self.masked_BS = (self.x_BS == self.config.mask_token_id) & self.canvas.real_BS
        self.counts_B = self.masked_BS.sum(-1).cpu()

    def states(self) -> Iterator[State]:
        """Run all steps."""
        self._call_tokens_hook(None, None)
        if self.config.output_history:
            self.history = History(self.x_BS.cpu().clone())
        yield self._state(-1, torch.zeros_like(self.masked_BS))
        for step in range(self.schedule.steps):
            if self.tokens_hook is None and not bool(self.counts_B.any()):
                return
            # Not around the yield: gradients are the caller's business.
            with torch.no_grad():
                opened_BS, logits = self._step(step)
                changed = self._call_tokens_hook(step, logits)
            if opened_BS is not None or changed:
                nothing = torch.zeros_like(self.masked_BS)
                yield self._state(step, nothing if opened_BS is None else opened_BS)

    def output(self) -> SamplingOutput:
        """What came of it, after the last state."""
        return SamplingOutput(
            self.x_BS,
            self.canvas.prompt_length,
            self.history,
            self.num_forward,
            self.config.seed or 0,
        )

    def _state(self, step: int, opened_BS: torch.Tensor) -> State:
        return State(step, self.x_BS, opened_BS, int(self.counts_B.sum()), self.num_forward)

    def _call_tokens_hook(self, step: int | None, logits: torch.Tensor | None) -> bool:
        """Let the hook change x; returns whether it did."""
        if self.tokens_hook is None:
            return False
        before_BS = self.x_BS
        # A hook may write in place; states handed out must not change.
        self.x_BS = self.tokens_hook(step, before_BS.clone(), logits)
        changed_BS = self.x_BS != before_BS
        if not bool(changed_BS.any()):
            return False
        if self.history is not None and step is not None:
            self.history.record(step, changed_BS, self.x_BS)
        self._count()
        return True

    def _step(self, step: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Open what this step opens; returns the opened positions and, for the hook, the logits."""
        quota_B = self.schedule.quota(step, self.counts_B)
        candidates_BS = self._candidates(step, quota_B)
        if candidates_BS is None:
            return None, None
        rows_N, positions_N = candidates_BS.nonzero(as_tuple=True)
        logits, logits_NV = self._logits(step, rows_N, positions_N)
        counts = candidates_BS.sum(-1).tolist()
        choice = choose(logits_NV, self._penalty(rows_N), self._token_draws(counts), self.config)
        opened_BS = self._opened(step, candidates_BS, choice, quota_B, counts)
        tokens_BS = self.x_BS.masked_scatter(candidates_BS, choice.tokens_N.to(self.x_BS.dtype))
        self.x_BS = torch.where(opened_BS, tokens_BS, self.x_BS)
        if self.history is not None:
            confidence_BS = _spread(choice.confidence_N, candidates_BS)
            probability_BS = _spread(choice.probability_N, candidates_BS)
            self.history.record(step, opened_BS, self.x_BS, confidence_BS, probability_BS)
        self._count()
        return opened_BS, logits

    def _candidates(self, step: int, quota_B: torch.Tensor) -> torch.Tensor | None:
        """Positions whose logits are needed; None where nothing can open."""
        if self.config.alg == "origin":
            coins_N = self.random.uniforms(self.counts_B.tolist(), self.x_BS.device)
            open_N = coins_N < self.schedule.share(step).to(coins_N)
            candidates_BS = self.masked_BS.masked_scatter(self.masked_BS, open_N)
        elif self.config.alg in ADAPTIVE:
            candidates_BS = self.masked_BS
        else:
            active_B = (quota_B > 0).to(self.x_BS.device)
            candidates_BS = self.masked_BS & active_B[:, None]
        return candidates_BS if bool(candidates_BS.any()) else None

    def _logits(
        self, step: int, rows_N: torch.Tensor, positions_N: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The shifted logits [B, S, V], made for hooks only, and those of the candidates [N, V]."""
        output = self.model(
            input_ids=self.x_BS,
            attention_mask=self.canvas.attention_mask_BS,
            position_ids=self.canvas.position_ids_BS,
        )
        self.num_forward += 1
        logits: torch.Tensor = getattr(output, "logits", output)
        if self.tokens_hook is None and self.logits_hook is None:
            return None, logits[rows_N, positions_N - 1]
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        if self.logits_hook is not None:
            logits = self.logits_hook(step, self.x_BS, logits)
        return logits, logits[rows_N, positions_N]

    def _penalty(self, rows_N: torch.Tensor) -> torch.Tensor | None:
        """Nats off PAD's logit: c times the masked share of what the row had to fill."""
        if not self.config.pad_penalty:
            return None
        share_B = self.counts_B / self.canvas.num_masks_B.clamp(min=1)
        penalty_B = (self.config.pad_penalty * share_B.clamp(max=1)).float()
        return penalty_B.to(rows_N.device)[rows_N]

    def _token_draws(self, counts: list[int]) -> torch.Tensor | None:
        if not self.config.temperature:
            return None
        return self.random.uniforms(counts, self.x_BS.device)

    def _opened(
        self,
        step: int,
        candidates_BS: torch.Tensor,
        choice: Choice,
        quota_B: torch.Tensor,
        counts: list[int],
    ) -> torch.Tensor:
        if self.config.alg == "origin":
            return candidates_BS
        uniforms_BS = None
        if self.config.alg_temp > 0:
            uniforms_N = self.random.uniforms(counts, self.x_BS.device)
            uniforms_BS = _spread(uniforms_N, candidates_BS)
        return select(
            _spread(choice.confidence_N, candidates_BS),
            candidates_BS,
            quota_B,
            uniforms_BS,
            self.schedule.is_last(step),
            self.config,
        )


def _spread(values_N: torch.Tensor, where_BS: torch.Tensor) -> torch.Tensor:
    """Values of the true positions, row after row, back on the canvas; 0 elsewhere."""
    canvas = torch.zeros(where_BS.shape, dtype=values_N.dtype, device=values_N.device)
    return canvas.masked_scatter(where_BS, values_N)
