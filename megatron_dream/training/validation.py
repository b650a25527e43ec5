"""Validation: fixed rows, fixed noise, from documents of their own.

Ordinals 0, 1, ... of the validation stream, every time, so that two validations differ by the model
alone. With low-discrepancy times each run of 64 ordinals covers (0, 1] evenly: the bound's grid of
t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..config.layout import Layout
from ..errors import LayoutError
from .metrics import StepReport
from .step import MicroBatches, StepRunner


def validation_microbatches(samples: int, layout: Layout) -> int:
    """Micro-batches a data-parallel rank for exactly ``samples`` rows.

    Raises:
        LayoutError: the rows do not divide, so that layouts would see different rows.
    """
    rows = layout.micro_batch_size * layout.dp
    if samples % rows:
        raise LayoutError(
            f"training.eval_samples {samples} is no multiple of micro batch "
            f"{layout.micro_batch_size} x DP {layout.dp} = {rows}; make it one"
        )
    return samples // rows


@torch.no_grad()
def validate(
    runner: StepRunner,
    make_iterators: Callable[[], list[MicroBatches]],
    num_microbatches: int,
    *,
    step: int,
    source_names: list[str],
) -> StepReport:
    """Loss, cross-entropy and bound on the validation rows; every process calls this."""
    models: list[Any] = runner.model
    for model in models:
        model.eval()
    try:
        sums = runner.run(make_iterators(), num_microbatches, step=step, forward_only=True)
    finally:
        for model in models:
            model.train()
    return StepReport.of(sums, source_names)
