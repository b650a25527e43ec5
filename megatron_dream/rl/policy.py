"""The policy's passes over an update's rows: log-probabilities without gradients, and the clipped loss with.

Shapes: B rows of a micro-batch, S its width, N tokens with loss of a micro-batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.state import unwrap
from ..config.schema import RlConfig
from ..diffusion.rows import PREDICTED
from ..model.head import IGNORED_LABEL, HeadOutput, RowLoss
from ..model.masks import attention_mask
from ..parallel import Ranks
from ..training.metrics import reduce_sums
from .batch import MicroBatch
from .objective import policy_loss, sequence_log_ratio

_SUMS = ("loss", "tokens", "ratio", "ratio_squared", "clipped_low", "clipped_high", "k2", "nll")


@dataclass(frozen=True)
class PolicyReport:
    """Means over an update's tokens with loss, and the loss itself.

    Attributes:
        loss: the objective that is made small.
        tokens: with loss.
        ratio: mean of r.
        ratio_std: its standard deviation.
        clipped_low: share of tokens on which the lower bound acts.
        clipped_high: and the upper one.
        k2: mean of (log r)^2 / 2.
        nll: mean of -log p, nats.
    """

    loss: float
    tokens: int
    ratio: float
    ratio_std: float
    clipped_low: float
    clipped_high: float
    k2: float
    nll: float

    @classmethod
    def of(cls, sums: Tensor, num_rows: int) -> PolicyReport:
        """From the sums over all ranks."""
        loss, tokens, ratio, squared, low, high, k2, nll = sums.cpu().tolist()
        count = max(tokens, 1.0)
        variance = max(0.0, squared / count - (ratio / count) ** 2)
        return cls(
            loss / num_rows,
            int(tokens),
            ratio / count,
            variance**0.5,
            low / count,
            high / count,
            k2 / count,
            nll / count,
        )


class PolicyRunner:
    """Runs the pipeline's schedule over micro-batches of rollouts.

    Args:
        model: wrapped model chunks of this process (one: no interleaving).
        rl: ratio, clip and temperature.
        ranks: this process's place.
    """

    def __init__(self, model: list[Any], rl: RlConfig, ranks: Ranks) -> None:
        from megatron.core.pipeline_parallel import get_forward_backward_func

        self.model, self.rl, self.ranks = model, rl, ranks
        self._core = unwrap(model[0])
        self._schedule: Callable[..., Any] = get_forward_backward_func()

    @torch.no_grad()
    def log_probabilities(self, batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Log p of the tokens with loss, [B x S] of each micro-batch with 0 elsewhere, fp32.

        Only the last pipeline stage has them; others get an empty list.
        """
        found: list[Tensor] = self._run(batches, self._log_probabilities, None, forward_only=True)
        return found

    def run(
        self,
        batches: Sequence[MicroBatch],
        old: Sequence[Tensor] | None,
        num_rows: int,
    ) -> PolicyReport:
        """Forward and backward over an update's rows of this rank.

        Args:
            batches: its micro-batches.
            old: log-probabilities under the policy that made the rollouts; None: it is this one still, and
                every ratio is 1.
            num_rows: of the update, on all ranks.
        """
        ratios = None
        if old is not None and self.rl.ratio == "sequence":
            ratios = self._sequence_ratios(batches, self.log_probabilities(batches), old)
        losses = [
            _Loss(self.rl, batch, _at(old, index), _at(ratios, index))
            for index, batch in enumerate(batches)
        ]
        reports = self._run(batches, self._policy_loss, losses, forward_only=False)
        return PolicyReport.of(reduce_sums(reports, len(_SUMS), self.ranks), num_rows)

    def _run(
        self,
        batches: Sequence[MicroBatch],
        loss: Callable[..., Any],
        losses: Sequence[_Loss] | None,
        *,
        forward_only: bool,
    ) -> list[Any]:
        each = zip(batches, losses or itertools.repeat(None), strict=False)
        rows, width = batches[0].batch["tokens"].shape
        self._core.temperature = self.rl.temperature
        try:
            found: list[Any] = self._schedule(
                forward_step_func=partial(self._forward, loss),
                data_iterator=iter(each),
                model=self.model[0],
                num_microbatches=len(batches),
                seq_length=width,
                micro_batch_size=rows,
                forward_only=forward_only,
            )
        finally:
            self._core.temperature, self._core.row_loss_of = 1.0, None
        return found

    def _forward(
        self,
        loss: Callable[..., Any],
        iterator: Iterator[tuple[MicroBatch, _Loss | None]],
        model: Any,
    ) -> tuple[Any, Callable[[HeadOutput], tuple[Tensor, Tensor, Tensor]]]:
        rows, row_loss = next(iterator)
        batch = rows.batch
        is_predicted = (batch["flags"] & PREDICTED).bool()
        self._core.row_loss_of = None if row_loss is None else row_loss.of_rows
        output = model(
            input_ids=batch["tokens"],
            position_ids=None,
            attention_mask=attention_mask(batch["flags_full"], right_context=None),
            labels=batch["labels"].masked_fill(~is_predicted, IGNORED_LABEL),
            loss_mask=batch["loss_weight"],
        )
        return output, partial(loss, rows, row_loss)

    def _log_probabilities(
        self, rows: MicroBatch, _: None, output: HeadOutput
    ) -> tuple[Tensor, Tensor, Tensor]:
        output = HeadOutput(*output)
        tokens = rows.batch["tokens"]
        found = torch.zeros(tokens.numel(), dtype=torch.float32, device=tokens.device)
        found[output.rows] = -output.cross_entropy
        return output.loss_sum, _count(rows), found

    def _policy_loss(
        self, rows: MicroBatch, row_loss: _Loss, output: HeadOutput
    ) -> tuple[Tensor, Tensor, Tensor]:
        output = HeadOutput(*output)
        return output.loss_sum, _count(rows), row_loss.sums(output)

    def _sequence_ratios(
        self, batches: Sequence[MicroBatch], new: Sequence[Tensor], old: Sequence[Tensor]
    ) -> list[Tensor] | None:
        """Log-ratio of each row's response, [B] of each micro-batch; both halves are on this rank."""
        if not new:
            return None
        per_row = [
            (one - other).view(batch.batch["tokens"].shape).sum(dim=1)
            for batch, one, other in zip(batches, new, old, strict=True)
        ]
        sequence_R = torch.cat([batch.sequence_B for batch in batches])
        length_R = torch.cat([batch.length_B for batch in batches]).clamp(min=1.0)
        ratio_R = sequence_log_ratio(
            torch.cat(per_row), sequence_R, length_R, int(sequence_R.max()) + 1
        )
        return list(ratio_R.split([len(batch.sequence_B) for batch in batches]))


@dataclass(frozen=True)
class _Loss:
    """The loss of a micro-batch's tokens."""

    rl: RlConfig
    rows: MicroBatch
    old: Tensor | None  # [B x S]
    log_ratio_B: Tensor | None  # of whole responses

    def of_rows(self, rows_N: Tensor) -> RowLoss:
        """See model/gpt.py."""
        return partial(self._of, rows_N)

    def _of(self, rows_N: Tensor, cross_entropy_C: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        chosen_C = rows_N[part]
        log_ratio_C = self._log_ratio(chosen_C, cross_entropy_C)
        found = policy_loss(
            log_ratio_C, self._advantage(chosen_C), self.rl.clip_low, self.rl.clip_high
        )
        k2_C, slope_C = 0.5 * log_ratio_C.square(), log_ratio_C
        loss_C = found.loss_N + self.rl.kl_coefficient * k2_C
        return loss_C, -(found.slope_N + self.rl.kl_coefficient * slope_C)

    def _advantage(self, rows_N: Tensor) -> Tensor:
        return self.rows.advantage_B[rows_N // self.rows.batch["tokens"].shape[1]]

    def _log_ratio(self, rows_N: Tensor, cross_entropy_N: Tensor) -> Tensor:
        if self.log_ratio_B is not None:
            return self.log_ratio_B[rows_N // self.rows.batch["tokens"].shape[1]]
        if self.old is None:
            return torch.zeros_like(cross_entropy_N)
        return -cross_entropy_N - self.old[rows_N]

    def sums(self, output: HeadOutput) -> Tensor:
        """In the order of ``_SUMS``, float64."""
        log_ratio_N = self._log_ratio(output.rows, output.cross_entropy)
        found = policy_loss(
            log_ratio_N, self._advantage(output.rows), self.rl.clip_low, self.rl.clip_high
        )
        columns = (
            torch.ones_like(found.ratio_N),
            found.ratio_N,
            found.ratio_N.square(),
            found.clipped_low_N,
            found.clipped_high_N,
            0.5 * log_ratio_N.square(),
            output.cross_entropy,
        )
        rest = [column.double().sum() for column in columns]
        return torch.stack([output.loss_sum.detach().double(), *rest])


def _count(rows: MicroBatch) -> Tensor:
    """What a micro-batch adds to the loss's denominator: its rows."""
    tokens = rows.batch["tokens"]
    return torch.tensor(len(tokens), dtype=torch.int32, device=tokens.device)


def _at(values: Sequence[Tensor] | None, index: int) -> Tensor | None:
    """Of a list that is None, or empty before the last pipeline stage."""
    return values[index] if values else None
