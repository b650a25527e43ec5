"""``diffusion_generate``: fill the masks of a canvas step by step (SPEC 7).

Where it sits: used alike by RL rollouts, the command line, evaluation and exported folders. A
model gives unshifted logits; the shift (hidden state i - 1 predicts token i) happens here.
Differs from the public code: numbers opened are counted a row, not by the batch's mean; a step that
opens nothing runs no forward pass; known tokens are never overwritten; rows are independent, up to the
rounding of kernels that depend on a batch's shape; a row that has nothing left to open is in no pass,
unless hooks or remasking want it. Exact: everything with ``cache: none`` or ``cache_refresh:
1``. Approximate, each by name: ``cache: prefix`` and ``dual`` (passes.py), ``border: kept``,
``suffix_window``, ``early_end``.
Shapes: B rows, S positions, V vocabulary, N positions that may open, row after row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .blocks import Block, plan_blocks
from .canvas import Canvas, build_canvas
from .decode import ROWS_AT_ONCE, Choice, choose
from .history import History
from .passes import Passes
from .randomness import RowRandom, fresh_seed
from .remask import reopened
from .sampling_config import ADAPTIVE, SamplingConfig
from .selection import select, spread

TokensHook = Callable[[int | None, torch.Tensor, torch.Tensor | None], torch.Tensor]
LogitsHook = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
StoppedRows = Callable[[], Collection[int]]


class LogitsModel(Protocol):
    """The least that the sampler asks of a model; caches ask for more (cache.py: StatesModel)."""

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
        reopened_BS: bool, what it masked again; None where nothing can be.
    """

    step: int
    x_BS: torch.Tensor
    opened_BS: torch.Tensor
    num_masked: int
    num_forward: int
    reopened_BS: torch.Tensor | None = None


@dataclass(frozen=True)
class SamplingOutput:
    """A finished generation.

    Attributes:
        sequences: int64 [B, S]: padding, prompt, response.
        prompt_length: padded; the response begins here.
        history: with ``output_history``.
        num_forward: forward passes run.
        seed: what was drawn from; pass it to repeat the draw.
        num_columns: rows times columns that the passes ran.
    """

    sequences: torch.Tensor
    prompt_length: int
    history: History | None
    num_forward: int
    seed: int
    num_columns: int = 0


def diffusion_generate(
    model: LogitsModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    config: SamplingConfig,
    tokens_hook: TokensHook | None = None,
    logits_hook: LogitsHook | None = None,
    row_ids: Sequence[int] | None = None,
    row_seeds: Sequence[int] | None = None,
    stopped_rows: StoppedRows | None = None,
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
        row_seeds: a seed for each prompt in place of the configuration's, for requests that share a
            batch and nothing else.
        stopped_rows: asked before each step; these rows of x, by number, leave with their masks.
        max_position: longest sequence the model knows.
        on_state: told every state, for progress.

    Raises:
        ValueError: one sentence: what is wrong and what to do.
    """
    hooks = _Hooks(tokens_hook, logits_hook)
    rows = _Rows(row_ids, row_seeds, stopped_rows)
    run = _Run(model, input_ids, attention_mask, config, hooks, rows, max_position)
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
    row_seeds: Sequence[int] | None = None,
    stopped_rows: StoppedRows | None = None,
    max_position: int | None = None,
) -> Iterator[State]:
    """``diffusion_generate`` as a generator: the state before the loop, then after each change.

    Bad arguments raise here, before the first state is asked for.
    """
    hooks = _Hooks(tokens_hook, logits_hook)
    rows = _Rows(row_ids, row_seeds, stopped_rows)
    run = _Run(model, input_ids, attention_mask, config, hooks, rows, max_position)
    return run.states()


@dataclass(frozen=True)
class _Hooks:
    tokens: TokensHook | None
    logits: LogitsHook | None


@dataclass(frozen=True)
class _Rows:
    ids: Sequence[int] | None
    seeds: Sequence[int] | None
    stopped: StoppedRows | None


class _Run:
    """One generation in progress."""

    def __init__(
        self,
        model: LogitsModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        config: SamplingConfig,
        hooks: _Hooks,
        rows: _Rows,
        max_position: int | None,
    ) -> None:
        config = config.resolved()
        if config.seed is None:
            config = dataclasses.replace(config, seed=fresh_seed())
        self.config = config
        self.tokens_hook, self.logits_hook = hooks.tokens, hooks.logits
        for name, is_set in (
            ("cache", config.cache != "none"),
            ("suffix_window", config.suffix_window is not None),
        ):
            if is_set and (hooks.tokens or hooks.logits):
                raise ValueError(
                    f"hooks get the logits of all positions, which {name} {getattr(config, name)!r} does "
                    "not make: leave out one or the other."
                )
        self.canvas: Canvas = build_canvas(
            input_ids, attention_mask, config, rows.ids, max_position
        )
        self.blocks = plan_blocks(self.canvas.prompt_length, config)
        self.random = RowRandom(self._seeds(rows.seeds), self.canvas.keys)
        self.passes = Passes(model, self.canvas, config)
        self.stopped_rows = rows.stopped
        self.x_BS = self.canvas.x_BS
        self.alive_B1 = torch.ones_like(self.x_BS[:, :1], dtype=torch.bool)
        self.history: History | None = None
        self._begin(self.blocks[0])

    def _seeds(self, row_seeds: Sequence[int] | None) -> list[int]:
        copies = self.config.num_return_sequences
        if row_seeds is None:
            return [self.config.seed or 0] * len(self.canvas.keys)
        if len(row_seeds) * copies != len(self.canvas.keys):
            raise ValueError(
                f"row_seeds has {len(row_seeds)} entries for {len(self.canvas.keys) // copies} "
                "prompts: give one each."
            )
        return [int(seed) for seed in row_seeds for _ in range(copies)]

    def _begin(self, block: Block) -> None:
        """Go on to a block."""
        self.block, self.schedule = block, block.schedule
        self._count()
        self.in_block_B = self.masked_BS.any(-1)
        self.passes.begin(block, self.masked_BS)
        if self.config.remask != "none":
            self.opened_BS = torch.zeros_like(self.masked_BS)
            self.confidence_BS = torch.zeros(self.x_BS.shape, device=self.x_BS.device)
            self.times_BS = torch.zeros_like(self.x_BS)

    def _count(self) -> None:
        """Masks that the block may open, and masks left in each row, on the CPU."""
        all_BS = (self.x_BS == self.config.mask_token_id) & self.canvas.real_BS
        self.left_B = all_BS.sum(-1).cpu()
        self.masked_BS = all_BS & self.alive_B1
        self.masked_BS[:, self.block.end :] = False
        self.counts_B = self.masked_BS.sum(-1).cpu()

    def states(self) -> Iterator[State]:
        """Run all steps."""
        self._call_tokens_hook(None, None)
        if self.config.output_history:
            self.history = History(self.x_BS.cpu().clone())
        yield self._state(-1)
        for block in self.blocks:
            self._begin(block)
            for step in range(block.schedule.steps):
                self._let_rows_leave()
                if self._is_filled(step):
                    break
                # Not around the yield: gradients are the caller's business.
                with torch.no_grad():
                    opened_BS, logits = self._step(step)
                    reopened_BS = self._remask(step)
                    changed = self._call_tokens_hook(block.first_step + step, logits)
                if opened_BS is not None or reopened_BS is not None or changed:
                    yield self._state(block.first_step + step, opened_BS, reopened_BS)
            ended_BS = self._end_rows()
            if ended_BS is not None:
                last = block.first_step + block.schedule.steps - 1
                yield self._state(last, ended_BS)

    def _is_filled(self, step: int) -> bool:
        """Whether nothing of the block can change any more."""
        if self.tokens_hook is not None or bool(self.counts_B.any()):
            return False
        can_reopen = self.config.remask != "none" and not self.schedule.is_last(step)
        return not (can_reopen and bool((self.in_block_B[:, None] & self.alive_B1).any()))

    def output(self) -> SamplingOutput:
        """What came of it, after the last state."""
        return SamplingOutput(
            self.x_BS,
            self.canvas.prompt_length,
            self.history,
            self.passes.num_forward,
            self.config.seed or 0,
            self.passes.num_columns,
        )

    def _state(
        self,
        step: int,
        opened_BS: torch.Tensor | None = None,
        reopened_BS: torch.Tensor | None = None,
    ) -> State:
        if opened_BS is None:
            opened_BS = torch.zeros_like(self.masked_BS)
        left = int(self.left_B.sum())
        return State(step, self.x_BS, opened_BS, left, self.passes.num_forward, reopened_BS)

    def _let_rows_leave(self) -> None:
        """Take out the rows that somebody has stopped."""
        stopped = list(self.stopped_rows()) if self.stopped_rows is not None else []
        if stopped and bool(self.alive_B1[stopped].any()):
            self.alive_B1 = self.alive_B1.clone()
            self.alive_B1[stopped] = False
            self._count()

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
        whole, logits = self._logits(step, candidates_BS)
        rows_N = candidates_BS.nonzero()[:, 0]
        counts = candidates_BS.sum(-1).tolist()
        choice = choose(logits, self._penalty(rows_N), self._token_draws(counts), self.config)
        opened_BS = self._opened(step, candidates_BS, choice, quota_B, counts)
        tokens_BS = self.x_BS.masked_scatter(candidates_BS, choice.tokens_N.to(self.x_BS.dtype))
        self.x_BS = torch.where(opened_BS, tokens_BS, self.x_BS)
        if self.history is not None or self.config.remask != "none":
            self._note(step, opened_BS, candidates_BS, choice)
        self._count()
        return opened_BS, whole

    def _note(
        self, step: int, opened_BS: torch.Tensor, candidates_BS: torch.Tensor, choice: Choice
    ) -> None:
        """Keep what history and remasking ask for."""
        confidence_BS = spread(choice.confidence_N, candidates_BS)
        if self.config.remask != "none":
            self.opened_BS = self.opened_BS | opened_BS
            self.confidence_BS = torch.where(opened_BS, confidence_BS, self.confidence_BS)
        if self.history is not None:
            probability_BS = spread(choice.probability_N, candidates_BS)
            number = self.block.first_step + step
            self.history.record(number, opened_BS, self.x_BS, confidence_BS, probability_BS)

    def _remask(self, step: int) -> torch.Tensor | None:
        """Mask some tokens of the block again; None where none is."""
        if self.config.remask == "none" or self.schedule.is_last(step):
            return None
        candidates_BS = self.opened_BS & self.alive_B1
        counts = candidates_BS.sum(-1).tolist()
        uniforms_M = self.random.uniforms(counts, self.x_BS.device)
        reopened_BS = reopened(
            self.schedule,
            step,
            self.confidence_BS,
            candidates_BS,
            self.times_BS,
            uniforms_M,
            self.config,
        )
        if not bool(reopened_BS.any()):
            return None
        self.x_BS = self.x_BS.masked_fill(reopened_BS, self.config.mask_token_id)
        self.opened_BS = self.opened_BS & ~reopened_BS
        self.times_BS = self.times_BS + reopened_BS
        if self.history is not None:
            self.history.record(self.block.first_step + step, reopened_BS, self.x_BS)
        self._count()
        return reopened_BS

    def _end_rows(self) -> torch.Tensor | None:
        """``early_end``: fill what follows in rows whose response has an end token; None: no row."""
        if not self.config.early_end:
            return None
        ends = self.config.eos_token_ids
        response_BS = self.x_BS[:, self.canvas.prompt_length : self.block.end]
        ended_B = torch.isin(response_BS, response_BS.new_tensor(ends)).any(-1)
        masks_BS = (self.x_BS == self.config.mask_token_id) & self.canvas.real_BS & self.alive_B1
        filled_BS = masks_BS & ended_B[:, None]
        if not bool(filled_BS.any()):
            return None
        pad = self.config.pad_token_id
        self.x_BS = self.x_BS.masked_fill(filled_BS, ends[0] if pad is None else pad)
        if self.history is not None:
            last = self.block.first_step + self.schedule.steps - 1
            self.history.record(last, filled_BS, self.x_BS)
        self._count()
        return filled_BS

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
        self, step: int, candidates_BS: torch.Tensor
    ) -> tuple[torch.Tensor | None, Iterable[torch.Tensor]]:
        """The shifted logits [B, S, V], made for hooks only, and those of the candidates in parts."""
        if self.tokens_hook is None and self.logits_hook is None:
            unfinished_B = self.masked_BS.any(-1)
            if self.config.remask != "none":
                unfinished_B = self.in_block_B & self.alive_B1.squeeze(-1)
            return None, self.passes.logits(step, self.x_BS, candidates_BS, unfinished_B)
        logits = self.passes.whole_logits(self.x_BS)
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        if self.logits_hook is not None:
            logits = self.logits_hook(self.block.first_step + step, self.x_BS, logits)
        return logits, logits[candidates_BS].split(ROWS_AT_ONCE)

    def _penalty(self, rows_N: torch.Tensor) -> torch.Tensor | None:
        """Nats off PAD's logit: c times the masked share of what the row had to fill."""
        if not self.config.pad_penalty:
            return None
        share_B = self.left_B / self.canvas.num_masks_B.clamp(min=1)
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
            uniforms_BS = spread(uniforms_N, candidates_BS)
        return select(
            spread(choice.confidence_N, candidates_BS),
            candidates_BS,
            quota_B,
            uniforms_BS,
            self.schedule.is_last(step),
            self.config,
        )
