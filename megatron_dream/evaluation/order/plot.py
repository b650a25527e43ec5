"""The plot of an analysis: position against step of the first samples, and AR-ness beside the nulls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..plots import import_pyplot, save_figure
from .analysis import Analysis, SampleOrder
from .measures import SPANS

SHOWN = 6  # samples
_COLOURS = {"structure": "tab:orange", "other": "tab:blue", "layout": "lightgrey"}


def plot_order(analysis: Analysis, path: Path) -> None:
    """Write the plot as PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    pyplot = import_pyplot()
    shown = analysis.samples[:SHOWN]
    rows = -(-(len(shown) + 2) // 4)
    figure, axes = pyplot.subplots(rows, 4, figsize=(16, 3.4 * rows), squeeze=False)
    panels = list(axes.flat)
    for number, (panel, one) in enumerate(zip(panels, shown, strict=False), start=1):
        _plot_sample(panel, one, number)
    panels[0].legend(frameon=False, fontsize=8)
    for panel, kind in zip(panels[len(shown) :], ("local", "global"), strict=False):
        _plot_ar_ness(panel, analysis, kind)
    for panel in panels[len(shown) + 2 :]:
        panel.axis("off")
    figure.tight_layout()
    save_figure(figure, path)


def _plot_sample(panel: Any, one: SampleOrder, number: int) -> None:
    steps = np.asarray(one.record.steps)
    for kind, colour in _COLOURS.items():
        here = [i for i, found in enumerate(one.layout.kinds) if found == kind]
        panel.scatter(here, steps[here], s=9, color=colour, label=kind)
    panel.set_title(f"sample {number}: {one.evidence.label or 'no label'}", fontsize=9)
    panel.set_xlabel("position")
    panel.set_ylabel("step")


def _plot_ar_ness(panel: Any, analysis: Analysis, kind: str) -> None:
    lines = {"model": analysis.means, **{null.name: null.means for null in analysis.nulls}}
    for name, means in lines.items():
        known = [k for k in SPANS if f"{kind}@{k}" in means]
        panel.plot(known, [means[f"{kind}@{k}"] for k in known], marker="o", label=name)
    panel.set_title(f"{kind} AR-ness", fontsize=9)
    panel.set_xlabel("k")
    panel.set_ylim(-0.03, 1.03)
    panel.legend(frameon=False, fontsize=8)
