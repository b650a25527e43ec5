"""How many GPUs a run can use: where more of them no longer shorten a step by data parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.layout import Layout


@dataclass(frozen=True)
class ScalingLimit:
    """Beyond ``gpus`` each data-parallel rank has as few micro-batches as its pipeline can take.

    Smaller micro-batches go on to ``gpus_at_micro_1``; beyond that only TP and CP shorten a step.
    """

    rows: int  # of the global batch
    micro_batch_size: int
    least_microbatches: int  # of a data-parallel rank: 1; interleaved: PP
    model_ranks: int  # TP x PP x CP
    gpus: int
    gpus_at_micro_1: int

    def sentence(self) -> str:
        """For people."""
        smaller = ""
        if self.gpus_at_micro_1 > self.gpus:
            smaller = f" (with micro batch 1: {self.gpus_at_micro_1:,})"
        each = ""
        if self.least_microbatches > 1:
            each = f" / {self.least_microbatches} micro-batches that interleaving needs"
        return (
            f"Beyond {self.gpus:,} GPUs{smaller} only TP and CP help: global batch {self.rows:,} / micro "
            f"batch {self.micro_batch_size}{each} = {self.gpus // self.model_ranks:,} data-parallel ranks "
            f"of {self.model_ranks} GPUs; more pipeline stages would have too few micro-batches to fill "
            f"them."
        )


def scaling_limit(layout: Layout) -> ScalingLimit:
    """Of a layout: (global batch / micro batch / least micro-batches) x TP x PP x CP."""
    ranks = layout.tp * layout.pp * layout.cp
    rows, micro = layout.global_batch_size, layout.micro_batch_size
    least = layout.pp if layout.vp > 1 else 1
    most = rows // least * ranks
    return ScalingLimit(rows, micro, least, ranks, rows // micro // least * ranks, most)
