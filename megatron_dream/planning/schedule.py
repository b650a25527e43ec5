"""megatron-core's pipeline schedules: how much is in flight, and how long a step takes.

1F1B: stage p of P keeps min(P - p, m) micro-batches. Interleaved with V chunks a stage: its forward
passes before the first backward pass are 2 (P - p - 1) + (V - 1) P + 1 of m V, in groups of P of each
chunk (Narayanan et al. 2021; schedules.py: get_pp_rank_microbatches).
"""

from __future__ import annotations

from collections.abc import Sequence

from .job import Job


def in_flight(job: Job, stage: int) -> tuple[int, ...]:
    """Micro-batches whose activations each chunk of ``stage`` holds at the most."""
    layout = job.layout
    pp, vp, count = layout.pp, layout.vp, layout.num_microbatches
    if vp == 1:
        return (min(pp - stage, count),)
    passes = min(2 * (pp - stage - 1) + (vp - 1) * pp + 1, count * vp)
    held = [0] * vp
    for index in range(passes):
        held[(index // pp) % vp] += 1
    return tuple(held)


def pipeline_seconds(stage_seconds: Sequence[float], num_microbatches: int, vp: int) -> float:
    """Time of all micro-batches: the slowest stage works all the time, the others fill and drain.

    With t_s the seconds that stage s has of one micro-batch, forward and backward:
    m max t + (sum t - max t) / V. Equal stages: (m + (P - 1) / V) t.

    Args:
        stage_seconds: t_s of each stage.
        num_microbatches: m.
        vp: chunks a stage, V.
    """
    slowest = max(stage_seconds)
    return num_microbatches * slowest + (sum(stage_seconds) - slowest) / vp


def bubble_share(stage_seconds: Sequence[float], num_microbatches: int, vp: int) -> float:
    """Share of all stages' time in which a stage has nothing to do: fill, drain and unequal stages."""
    total = pipeline_seconds(stage_seconds, num_microbatches, vp) * len(stage_seconds)
    return 1.0 - num_microbatches * sum(stage_seconds) / total if total else 0.0
