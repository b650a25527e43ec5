"""The report of sft_truncation.py: means over seeds, paired differences with intervals, table and plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from truncation_measures import BUCKET_NAMES, PENALTY_NAMES

from megatron_dream.evaluation.plots import import_pyplot, save_figure
from megatron_dream.files import atomic_write, write_json

EQUAL_STEPS, EQUAL_POSITIONS = "equal steps", "equal positions"
BASES = (EQUAL_STEPS, EQUAL_POSITIONS)
REFERENCE = "to the longest"
_PANELS = (  # title, what stands before the name, names
    ("loss at t 1, nats", "loss, canvas, t 1, ", BUCKET_NAMES),
    ("share ending at once", "ends_at_once, ", PENALTY_NAMES),
    ("generated minus right length", "excess, ", PENALTY_NAMES),
    ("correlation with right length", "correlation, ", PENALTY_NAMES),
    ("pass rate", "pass, ", PENALTY_NAMES),
)
_TABLES = (
    ("Loss by position in the answer, t 1, canvas of 64", "loss, canvas, t 1, ", BUCKET_NAMES),
    ("Loss by position in the answer, t 0.5, canvas of 64", "loss, canvas, t 0.5, ", BUCKET_NAMES),
    ("Loss, t 1, canvas as long as the answer", "loss, exact, t 1, ", BUCKET_NAMES),
    ("Loss, t 0.5, canvas as long as the answer", "loss, exact, t 0.5, ", BUCKET_NAMES),
    ("Share of answers that end at once, by penalty", "ends_at_once, ", PENALTY_NAMES),
    ("Share of answers that fill the canvas", "fills_canvas, ", PENALTY_NAMES),
    ("Generated minus right length, tokens", "excess, ", PENALTY_NAMES),
    ("Correlation of both lengths", "correlation, ", PENALTY_NAMES),
    ("Pass rate", "pass, ", PENALTY_NAMES),
)


def interval(values: Sequence[float]) -> float | None:
    """Half of the 95% t-interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def values_of(
    results: Sequence[dict[str, Any]], arm: str, basis: str, name: str
) -> dict[int, float]:
    """A figure by seed. At equal positions the reference is its own run at equal steps."""
    wanted = EQUAL_STEPS if arm == REFERENCE else basis
    return {
        result["seed"]: result["figures"][name]
        for result in results
        if (result["arm"], result["basis"]) == (arm, wanted) and name in result["figures"]
    }


def summary_of(
    results: Sequence[dict[str, Any]], arm: str, basis: str, name: str
) -> dict[str, Any] | None:
    """Mean and interval over seeds, and the same of the differences to the reference by seed."""
    own = values_of(results, arm, basis, name)
    if not own:
        return None
    reference = values_of(results, REFERENCE, basis, name)
    shared = [own[seed] - reference[seed] for seed in sorted(own) if seed in reference]
    found: dict[str, Any] = {
        "mean": statistics.fmean(own.values()),
        "half_interval": interval(list(own.values())),
        "seeds": len(own),
    }
    if arm != REFERENCE and shared:
        found["difference"] = statistics.fmean(shared)
        found["difference_half_interval"] = interval(shared)
    return found


def write_report(
    path: Path, plan: dict[str, Any], results: list[dict[str, Any]], arms: Sequence[str]
) -> None:
    """``path`` with .json, .md and .png; the table is printed too."""
    names = list(dict.fromkeys(name for result in results for name in result["figures"]))
    summary = {
        basis: {
            arm: {name: summary_of(results, arm, basis, name) for name in names} for arm in arms
        }
        for basis in BASES
    }
    write_json(path.with_suffix(".json"), {"plan": plan, "summary": summary, "models": results})
    text = text_of(plan, results, summary, arms)
    with atomic_write(path.with_suffix(".md")) as stream:
        stream.write(text)
    plot(path.with_suffix(".png"), summary, arms)
    print(text, end="")


def text_of(
    plan: dict[str, Any],
    results: Sequence[dict[str, Any]],
    summary: dict[str, Any],
    arms: Sequence[str],
) -> str:
    """The whole of the ``.md``."""
    hours = sum(r["train_seconds"] + r["measure_seconds"] for r in results) / 3600
    seeds = len({result["seed"] for result in results})
    commits = ", ".join(sorted({result["commit"] for result in results}))
    lines = [
        "# Random truncation on toy problems",
        "",
        f"Written by `tests/acceptance/sft_truncation.py` at {commits} ({hours:.1f} hours of one "
        f"process): {seeds} seeds, "
        f"{plan['steps']} steps from one model of {plan['pretrain_steps']} steps of pretraining, "
        f"{plan['problems']} held-out problems, temperature 1.0, canvas of 64. A cell: mean over seeds; in "
        f"brackets the difference to `{REFERENCE}` by seed, with its 95% t-interval.",
        "",
    ]
    for basis in BASES:
        lines += [f"## At {basis}", "", *_costs(results, basis, arms), ""]
        for title, prefix, names in _TABLES:
            lines += [f"### {title}", "", *_table(summary[basis], arms, prefix, names), ""]
    return "\n".join(lines[:-1]) + "\n"


def _costs(results: Sequence[dict[str, Any]], basis: str, arms: Sequence[str]) -> list[str]:
    lines = ["| arm | steps | computed positions | masked tokens |", "|---|---|---|---|"]
    for arm in arms:
        wanted = EQUAL_STEPS if arm == REFERENCE else basis
        mine = [r for r in results if (r["arm"], r["basis"]) == (arm, wanted)]
        means = [
            statistics.fmean(r[k] for r in mine) for k in ("steps", "positions", "masked_tokens")
        ]
        lines.append(f"| {arm} | {' | '.join(f'{mean:,.0f}' for mean in means)} |")
    return lines


def _table(
    summary: dict[str, Any], arms: Sequence[str], prefix: str, names: Sequence[str]
) -> list[str]:
    lines = [f"| arm | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for arm in arms:
        cells = [_cell(summary[arm].get(prefix + name)) for name in names]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    text = f"{found['mean']:.3f}"
    if "difference" in found:
        half = found["difference_half_interval"]
        text += f" ({found['difference']:+.3f}{'' if half is None else f' ± {half:.3f}'})"
    return text


def plot(path: Path, summary: dict[str, Any], arms: Sequence[str]) -> None:
    """A row a figure, a column a basis, a line an arm with the interval of its mean."""
    pyplot = import_pyplot()
    size = (6.0 * len(BASES), 2.6 * len(_PANELS))
    figure, axes = pyplot.subplots(len(_PANELS), len(BASES), figsize=size, sharey="row")
    for row, (title, prefix, names) in enumerate(_PANELS):
        for column, basis in enumerate(BASES):
            for arm in arms:
                found = [summary[basis][arm].get(prefix + name) for name in names]
                axes[row, column].errorbar(
                    range(len(names)),
                    [math.nan if one is None else one["mean"] for one in found],
                    yerr=[0.0 if one is None else one["half_interval"] or 0.0 for one in found],
                    marker="o",
                    capsize=3,
                    label=arm,
                )
            axes[row, column].set_xticks(range(len(names)), names)
            axes[0, column].set_title(f"at {basis}")
        axes[row, 0].set_ylabel(title)
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    save_figure(figure, path)
