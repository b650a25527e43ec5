"""Validation: fixed rows, fixed noise, from documents of their own.

Ordinals 0, 1, ... of the validation stream, every time, so that two validations differ by the model
alone. With low-discrepancy times each run of 64 ordinals covers (0, 1] evenly: the bound's grid of
t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .metrics import StepReport
from .step import MicroBatches, StepRunner


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
