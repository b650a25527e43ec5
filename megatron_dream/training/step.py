"""One training step: forward and backward over all micro-batches, one update.

The loss of a global batch is L = sum over masked n of w_n CE_n / D, D one integer of the whole
batch. Each micro-batch contributes its part of both sums; megatron-core adds D up over data- and
context-parallel ranks and divides the summed gradients by it once (``calculate_per_token_loss``).
No mean is ever taken over a part, so the result cannot depend on how the batch was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.state import unwrap
from ..config.schema import DiffusionConfig
from ..model.head import IGNORED_LABEL, HeadOutput
from ..model.masks import attention_mask, packed_segments
from ..parallel import Ranks
from .metrics import micro_batch_sums, reduce_sums, sums_size

PREDICTED = 2  # bit of data/batch.py's flags
MicroBatches = Iterator[dict[str, Tensor]]


def right_context(diffusion: DiffusionConfig, step: int, sequence_length: int) -> int | None:
    """How far to the right a position sees at ``step``: None all, 0 causal, between while annealing."""
    if diffusion.objective == "ar":
        return 0
    if diffusion.attention == "full" or step >= diffusion.anneal_steps:
        return None
    # At least 1: 0 means causal by the layer spec, which is bidirectional here.
    return max(1, (sequence_length * step) // diffusion.anneal_steps)


def denominator_part(batch: dict[str, Tensor], diffusion: DiffusionConfig, cp_rank: int) -> Tensor:
    """This rank's part of D as int32: masked tokens of its slice, or maskable ones of its rows."""
    if diffusion.denominator == "maskable_tokens" and diffusion.objective == "diffusion":
        count = batch["num_maskable"].sum() if cp_rank == 0 else batch["num_maskable"].new_zeros(())
    else:
        count = (batch["flags"] & PREDICTED).bool().sum()
    return count.to(torch.int32)


class StepRunner:
    """Runs the schedule over micro-batches and reduces what it reports.

    Args:
        model: wrapped model chunks of this process.
        diffusion: the objective.
        ranks: this process's place.
        micro_batch_size: rows.
        sequence_length: tokens of a row, whole.
        num_sources: corpora in the blend, for the report.
        packs: micro-batches are packed into one sequence each (data/packing.py).
    """

    def __init__(
        self,
        model: list[Any],
        diffusion: DiffusionConfig,
        ranks: Ranks,
        *,
        micro_batch_size: int,
        sequence_length: int,
        num_sources: int,
        packs: bool = False,
    ) -> None:
        from megatron.core.pipeline_parallel import get_forward_backward_func

        self.model, self.diffusion, self.ranks = model, diffusion, ranks
        self.micro_batch_size = micro_batch_size
        self.sequence_length = sequence_length
        self.num_sources = num_sources
        self.packs = packs
        self._schedule: Callable[..., Any] = get_forward_backward_func()

    def run(
        self,
        iterators: list[MicroBatches],
        num_microbatches: int,
        *,
        step: int,
        forward_only: bool = False,
    ) -> Tensor:
        """Run ``num_microbatches`` and return the global batch's sums on every process.

        Args:
            iterators: one a model chunk.
            num_microbatches: of this data-parallel rank.
            step: of the optimizer, for attention annealing.
            forward_only: no gradients (validation).
        """
        context = right_context(self.diffusion, step, self.sequence_length)
        reports = self._schedule(
            forward_step_func=partial(self._forward, context),
            data_iterator=iterators if len(self.model) > 1 else iterators[0],
            model=self.model if len(self.model) > 1 else self.model[0],
            num_microbatches=num_microbatches,
            seq_length=self.sequence_length * (self.micro_batch_size if self.packs else 1),
            micro_batch_size=1 if self.packs else self.micro_batch_size,
            forward_only=forward_only,
        )
        return reduce_sums(reports, sums_size(self.num_sources), self.ranks)

    def _forward(
        self, context: int | None, iterator: MicroBatches, model: Any
    ) -> tuple[Any, Callable[[HeadOutput], tuple[Tensor, Tensor, Tensor]]]:
        batch = next(iterator)
        labels = weights = None
        if "labels" in batch:
            is_predicted = (batch["flags"] & PREDICTED).bool()
            labels = batch["labels"].masked_fill(~is_predicted, IGNORED_LABEL)
            weights = batch["loss_weight"]
        output = model(
            input_ids=batch.get("tokens"),
            position_ids=None,
            **self._attention(context, batch, model),
            labels=labels,
            loss_mask=weights,
        )
        return output, partial(self._loss, batch)

    def _attention(
        self, context: int | None, batch: dict[str, Tensor], model: Any
    ) -> dict[str, Any]:
        """Who attends to whom, as the model's layer spec takes it."""
        if "positions" in batch:
            segments = packed_segments(batch, cp_size=self.ranks.cp_size)
            return {"attention_mask": None, "packed_seq_params": segments}
        if unwrap(model).layer_spec != "local":
            return {"attention_mask": None}  # whole rows: others are packed for it
        ranks = self.ranks
        mask = attention_mask(
            batch["flags_full"],
            right_context=context,
            cp_rank=ranks.cp_rank,
            cp_size=ranks.cp_size,
        )
        return {"attention_mask": mask}

    def _loss(self, batch: dict[str, Tensor], output: HeadOutput) -> tuple[Tensor, Tensor, Tensor]:
        """(loss sum, part of D, report), as megatron-core's schedules take them."""
        output = HeadOutput(*output)
        num_tokens = denominator_part(batch, self.diffusion, self.ranks.cp_rank)
        report = micro_batch_sums(
            output,
            batch,
            num_tokens,
            num_sources=self.num_sources,
            cp_rank=self.ranks.cp_rank,
            t_min=self.diffusion.t_min,
        )
        return output.loss_sum, num_tokens, report
