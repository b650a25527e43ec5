"""How many GPUs a run can use: where more of them no longer shorten a step by data parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.layout import Layout


@dataclass(frozen=True)
class ScalingLimit:
    """Beyond ``gpus`` only TP and CP shorten a step: every row of the batch has a rank of its own."""

    rows: int  # of the global batch
    micro_batch_size: int
    model_ranks: int  # TP x PP x CP
    gpus: int

    def sentence(self) -> str:
        """For people."""
        return (
            f"Beyond {self.gpus:,} GPUs only TP and CP help: global batch {self.rows} / micro batch "
            f"{self.micro_batch_size} = {self.rows // self.micro_batch_size} data-parallel ranks of "
            f"{self.model_ranks} GPUs; more pipeline stages would have one micro-batch to fill them."
        )


def scaling_limit(layout: Layout) -> ScalingLimit:
    """Of a layout: (global batch / micro batch) x TP x PP x CP."""
    ranks = layout.tp * layout.pp * layout.cp
    rows, micro = layout.global_batch_size, layout.micro_batch_size
    return ScalingLimit(rows, micro, ranks, rows // micro * ranks)
