"""Sums that describe a step, gathered over micro-batches and processes, and what is read off them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import device
from ..model.head import HeadOutput
from ..parallel import Ranks

NUM_T_BUCKETS = 4
PER_BUCKET = 3  # masked tokens, sum of CE, correct
PER_SOURCE = 3  # rows, masked tokens, sum of CE
HEADER = 8  # loss sum, denominator, masked, maskable, real tokens, rows, sum of CE / t, positions


def micro_batch_sums(
    output: HeadOutput,
    batch: dict[str, Tensor],
    num_tokens: Tensor,
    *,
    num_sources: int,
    cp_rank: int,
    t_min: float,
) -> Tensor:
    """Sums over one micro-batch as float64, in the order that ``StepReport.of`` reads.

    Args:
        output: the head's, rows of this context-parallel rank.
        batch: the micro-batch; ``flags_full``, ``t``, ``source``, ``num_maskable`` describe whole
            rows.
        num_tokens: this rank's part of the loss's denominator.
        num_sources: corpora in the blend.
        cp_rank: row-wise quantities are counted by context-parallel rank 0 only.
        t_min: bounds 1 / t; only the complement of a sample lies below it.
    """
    flags = batch["flags_full"]
    packed_rows = batch.get("packed_rows")
    row = (
        output.rows // batch["labels"].shape[1] if packed_rows is None else packed_rows[output.rows]
    )
    bucket = (batch["t"] * NUM_T_BUCKETS).long().clamp(0, NUM_T_BUCKETS - 1)[row]
    source = batch["source"].long()
    ones = torch.ones_like(output.cross_entropy)
    per_row = 1.0 if cp_rank == 0 else 0.0
    sums = torch.zeros(
        HEADER + PER_BUCKET * NUM_T_BUCKETS + PER_SOURCE * num_sources,
        dtype=torch.float64,
        device=flags.device,
    )
    sums[0] = output.loss_sum.detach()
    sums[1] = num_tokens
    sums[2] = output.rows.numel()
    sums[3] = batch["num_maskable"].sum() * per_row
    sums[4] = (flags & 4).eq(0).sum() * per_row
    sums[5] = source.numel() * per_row
    sums[6] = (output.cross_entropy / batch["t"].clamp(min=t_min)[row]).sum()
    sums[7] = flags.numel() * per_row
    buckets = sums[HEADER : HEADER + PER_BUCKET * NUM_T_BUCKETS].view(PER_BUCKET, NUM_T_BUCKETS)
    for index, values in enumerate((ones, output.cross_entropy, output.is_correct)):
        buckets[index].index_add_(0, bucket, values.double())
    sources = sums[HEADER + PER_BUCKET * NUM_T_BUCKETS :].view(PER_SOURCE, num_sources)
    sources[0].index_add_(0, source, torch.full_like(source, per_row, dtype=torch.float64))
    for index, values in enumerate((ones, output.cross_entropy), start=1):
        sources[index].index_add_(0, source[row], values.double())
    return sums


def reduce_sums(stores: list[Tensor], size: int, ranks: Ranks) -> Tensor:
    """Sum over this rank's micro-batches and over all data- and context-parallel ranks.

    Only last pipeline stages have something to add; the others receive the result, so that every
    process can decide alike on it.
    """
    total = torch.zeros(size, dtype=torch.float64, device=device.current_device())
    for sums in stores:
        total += sums
    if ranks.is_last_pipeline_rank:
        dist.all_reduce(total, group=ranks.dp_cp_group)
    if ranks.pp_size > 1:
        last = dist.get_process_group_ranks(ranks.pp_group)[-1]
        dist.broadcast(total, src=last, group=ranks.pp_group)
    return total


def sums_size(num_sources: int) -> int:
    """Length of the vector of sums."""
    return HEADER + PER_BUCKET * NUM_T_BUCKETS + PER_SOURCE * num_sources


@dataclass
class StepReport:
    """Means of one step (or of one validation), over the global batch."""

    loss: float
    masked_tokens: int
    maskable_tokens: int
    real_tokens: int
    rows: int
    positions: int  # that the model computed: real tokens and dead padding
    masked_cross_entropy: float
    accuracy: float
    bound_per_token: float  # sum of CE / t over maskable tokens, nats: the evidence bound
    by_t: list[dict[str, float]]
    by_source: list[dict[str, float]]

    @property
    def masked_share(self) -> float:
        """Masked tokens over maskable ones."""
        return self.masked_tokens / max(self.maskable_tokens, 1)

    @classmethod
    def of(cls, sums: Tensor, source_names: list[str]) -> StepReport:
        """Read the vector that ``reduce_sums`` made."""
        values = sums.cpu()
        end = HEADER + PER_BUCKET * NUM_T_BUCKETS
        count_b, ce_b, correct_b = values[HEADER:end].view(PER_BUCKET, NUM_T_BUCKETS).tolist()
        rows_s, count_s, ce_s = values[end:].view(PER_SOURCE, -1).tolist()
        masked = max(float(values[2]), 1.0)
        by_t = [
            {
                "masked_tokens": count,
                "cross_entropy": ce / max(count, 1.0),
                "accuracy": correct / max(count, 1.0),
            }
            for count, ce, correct in zip(count_b, ce_b, correct_b, strict=True)
        ]
        by_source = [
            {
                "rows": rows,
                "masked_tokens": count,
                "cross_entropy": ce / max(count, 1.0),
            }
            for rows, count, ce in zip(rows_s, count_s, ce_s, strict=True)
        ]
        for entry, name in zip(by_source, source_names, strict=True):
            entry["name"] = name
        return cls(
            loss=float(values[0]) / max(float(values[1]), 1.0),
            masked_tokens=int(values[2]),
            maskable_tokens=int(values[3]),
            real_tokens=int(values[4]),
            rows=int(values[5]),
            positions=int(values[7]),
            masked_cross_entropy=sum(ce_b) / masked,
            accuracy=sum(correct_b) / masked,
            bound_per_token=float(values[6]) / max(float(values[3]), 1.0),
            by_t=by_t,
            by_source=by_source,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.__dict__, "masked_share": self.masked_share}
