"""Shares of the data sheets' numbers that training reaches, each with where it comes from.

Two are calibrated, on the rows of published runs that tests/acceptance/plan_published.py names, with
the error of each row when it is left out: ``matmul`` and ``fixed_seconds``. The others are measured by
others. docs/planning.md gives the sources. ``calibration.py`` finds all of them anew on one machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Efficiency:
    """What remains of a peak; none depends on the model or the layout."""

    matmul: float = 0.87  # calibrated: a layer's products / the best product on that GPU
    # calibrated: of each product, beside its FLOPs: launch, ramp, scaling
    fixed_seconds: float = 35e-6
    attention_forward: float = 0.65  # of bf16's peak
    attention_backward: float = 0.55
    memory: float = 0.80  # of the memory's bandwidth, elementwise
    nvlink: float = 0.80  # bus bandwidth of a collective
    network: float = 0.85
    nvlink_latency: float = 10e-6  # seconds of a collective, whatever its size
    network_latency: float = 30e-6
    # Of memory: not calibrated here.
    activations: float = 1.0  # what lives between forward and backward pass / what is counted
    workspace_gib: float = 0.25  # cuBLAS and Transformer Engine


DEFAULT = Efficiency()
