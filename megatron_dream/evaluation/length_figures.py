"""What generated lengths say: statistics of one setting, the table of all, the plot. No model in here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .plots import import_pyplot, save_figure

QUANTILES = (0.1, 0.5, 0.9)


@dataclasses.dataclass(frozen=True)
class Penalty:
    """What PAD's logit loses at a fully masked canvas.

    Attributes:
        nats: the loss.
        factor: where it was given as a factor f on PAD's weight; ``nats`` is -log f.
    """

    nats: float
    factor: float | None = None

    @classmethod
    def of_factor(cls, factor: float) -> Penalty:
        """A factor over 0, up to 1."""
        return cls(-math.log(factor) or 0.0, factor)  # or: -log 1 is -0.0

    def options(self) -> dict[str, Any]:
        """The field of SamplingConfig, as the penalty was given."""
        if self.factor is not None:
            return {"pad_penalty_factor": self.factor}
        return {"pad_penalty": self.nats}

    def __str__(self) -> str:
        if self.factor is None:
            return f"{self.nats:g}"
        return f"{self.nats:.1f} (factor {self.factor:g})"


@dataclasses.dataclass
class Figures:
    """All samples of one setting.

    Attributes:
        temperature: of the sampler.
        penalty: of PAD.
        max_new_tokens: tokens of the canvas.
        samples: counted.
        mean: tokens before the first end token.
        quantiles: of these, by share.
        ends_at_once: share of samples with no token.
        fills_canvas: share of samples without an end.
        right: mean tokens of the right answers, where they are known; else None.
        excess: generated minus right, mean over the samples where the right length is known.
        correlation: of both (Pearson); None where either does not vary.
        pass_at: k to pass@k over the prompts whose answer is known; empty where none is.
    """

    temperature: float
    penalty: Penalty
    max_new_tokens: int
    samples: int
    mean: float
    quantiles: dict[float, float]
    ends_at_once: float
    fills_canvas: float
    right: float | None
    excess: float | None
    correlation: float | None
    pass_at: dict[int, float]

    @property
    def penalty_over_temperature(self) -> float | None:
        """Nats off PAD's log-probability where the token is drawn; None: without bound."""
        if self.penalty.nats == 0:
            return 0.0
        return self.penalty.nats / self.temperature if self.temperature > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {**dataclasses.asdict(self)}
        penalty = values.pop("penalty")
        return {
            "pad_penalty": penalty["nats"],
            "pad_penalty_factor": penalty["factor"],
            "penalty_over_temperature": self.penalty_over_temperature,
            **values,
        }


def figures_of(
    lengths: Sequence[Sequence[int]],
    right: Sequence[int | None],
    passed: Sequence[Sequence[bool] | None],
    *,
    temperature: float,
    penalty: Penalty,
    max_new_tokens: int,
) -> Figures:
    """The figures of one setting.

    Args:
        lengths: of each prompt's samples, tokens.
        right: of each prompt's right answer, tokens; None: not known.
        passed: whether each sample is right; None: not known of the prompt.
        temperature: of the setting.
        penalty: likewise.
        max_new_tokens: likewise.
    """
    made = np.array([length for of_prompt in lengths for length in of_prompt], float)
    pairs = np.array(
        [
            (length, wanted)
            for of_prompt, wanted in zip(lengths, right, strict=True)
            if wanted is not None
            for length in of_prompt
        ],
        float,
    ).reshape(-1, 2)
    known = len(pairs) > 0
    return Figures(
        temperature=temperature,
        penalty=penalty,
        max_new_tokens=max_new_tokens,
        samples=len(made),
        mean=float(made.mean()),
        quantiles={share: float(np.quantile(made, share)) for share in QUANTILES},
        ends_at_once=float((made == 0).mean()),
        fills_canvas=float((made == max_new_tokens).mean()),
        right=float(pairs[:, 1].mean()) if known else None,
        excess=float((pairs[:, 0] - pairs[:, 1]).mean()) if known else None,
        correlation=correlation(pairs[:, 0], pairs[:, 1]),
        pass_at=pass_rates([marks for marks in passed if marks is not None]),
    )


def correlation(first: Any, second: Any) -> float | None:
    """Pearson's, or None where one of both does not vary."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that k of the samples, drawn without replacement, hold a right one (Chen et al. 2021).

    The unbiased estimator 1 - C(n - c, k) / C(n, k).

    Args:
        samples: n, at least k.
        right: c of them.
        k: drawn.
    """
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_rates(passed: Sequence[Sequence[bool]]) -> dict[int, float]:
    """pass@k for 1, 2, 4, ... up to the samples of a prompt, means over prompts."""
    if not passed:
        return {}
    samples = min(map(len, passed))
    powers = [2**n for n in range(samples.bit_length())]
    return {
        k: sum(pass_at_k(len(marks), sum(marks), k) for marks in passed) / len(passed)
        for k in powers
    }


def table_of(found: Sequence[Figures]) -> str:
    """Markdown, a line a setting; a column that says nothing anywhere is left out."""
    knows_length = any(one.excess is not None for one in found)
    powers = sorted({k for one in found for k in one.pass_at})
    head = ["canvas", "temperature", "PAD penalty, nats", "penalty / T", "mean tokens"]
    head += ["10% / 50% / 90%", "ends at once", "fills the canvas"]
    head += ["minus right length", "correlation"] if knows_length else []
    head += [f"pass@{k}" for k in powers]
    lines = [_line(head), _line(["---"] * len(head))]
    for one in found:
        ratio = one.penalty_over_temperature
        cells = [str(one.max_new_tokens), f"{one.temperature:g}", str(one.penalty)]
        cells += ["-" if ratio is None else f"{ratio:.3g}", f"{one.mean:.1f}"]
        cells += [" / ".join(f"{one.quantiles[share]:g}" for share in QUANTILES)]
        cells += [f"{one.ends_at_once:.1%}", f"{one.fills_canvas:.1%}"]
        if knows_length:
            cells += ["-" if one.excess is None else f"{one.excess:+.1f}"]
            cells += ["-" if one.correlation is None else f"{one.correlation:.2f}"]
        cells += [f"{one.pass_at[k]:.1%}" if k in one.pass_at else "-" for k in powers]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot_figures(found: Sequence[Figures], path: Path) -> None:
    """A column a canvas, a line a temperature, against the penalty: lengths, early ends, pass@1.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    pyplot = import_pyplot()
    canvases = sorted({one.max_new_tokens for one in found})
    knows_answers = any(one.pass_at for one in found)
    names = ["mean tokens", "share ending at once"] + ["pass@1"] * knows_answers
    size = (4.5 * len(canvases), 2.6 * len(names))
    figure, axes = pyplot.subplots(
        len(names), len(canvases), figsize=size, squeeze=False, sharex=True, sharey="row"
    )
    for column, canvas in enumerate(canvases):
        here = [one for one in found if one.max_new_tokens == canvas]
        _plot_canvas(axes[:, column], here, knows_answers)
        axes[0, column].set_title(f"canvas of {canvas} tokens")
        axes[-1, column].set_xlabel("PAD penalty, nats")
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name)
        axes[row, 0].set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False)
    save_figure(figure, path)


def _plot_canvas(axes: Any, found: Sequence[Figures], knows_answers: bool) -> None:
    """The panels of one canvas, from top to bottom."""
    for temperature in sorted({one.temperature for one in found}):
        line = [one for one in found if one.temperature == temperature]
        nats = [one.penalty.nats for one in line]
        rows = [[one.mean for one in line], [one.ends_at_once for one in line]]
        if knows_answers:
            rows.append([one.pass_at.get(1, math.nan) for one in line])
        for panel, values in zip(axes, rows, strict=True):
            label = f"temperature {temperature:g}"
            panel.plot(nats, values, marker="o", label=label, clip_on=False)  # points lie at 0
    right = found[0].right
    if right is not None:
        axes[0].axhline(right, color="grey", linestyle=":", label="right answers")
