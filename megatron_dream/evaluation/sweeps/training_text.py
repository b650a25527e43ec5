"""What a training sweep has shown, in plain words; every figure is a column of the summary."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Row
from .text import difference, estimate, figure, has, listed, number, setting

_SAME = 0.01  # relative difference of FLOPs that is none


def paragraph(rows: Sequence[Row], axes: Sequence[str], compare_to: str) -> str:
    """Each arm at its best setting against one of them; at the end, at equal FLOPs, in answers.

    Args:
        rows: of ``training_summary.summary``.
        axes: columns that make an arm's settings.
        compare_to: the arm that differences are to.
    """
    best = [row for row in rows if row["is_best"] == "yes" and row["is_last"] == "yes"]
    baseline = next((row for row in best if row["arm"] == compare_to), None)
    if baseline is None:
        return f"Nothing is compared: the arm {compare_to!r} is not measured."
    others = [row for row in best if row is not baseline]
    parts = [
        f"Held-out cross-entropy in nats a masked token, lower is better, {_seeds(best)}; intervals are of "
        f"95%, differences are paired over seeds."
    ]
    if axes:
        parts.append(
            f"Each arm stands at the {listed([_name(a) for a in axes])} where its mean is best."
        )
    parts.append(_finals(baseline, others, axes))
    parts += _edges(rows, best, axes)
    parts += _equal_flops(baseline, others)
    parts += _answers(baseline, others)
    if len(others) > 1:
        parts.append(
            f"{len(others)} arms are compared; where none differed, an interval of 95% would leave out 0 "
            f"once in 20 comparisons."
        )
    return " ".join(parts)


def _seeds(rows: Sequence[Row]) -> str:
    counts = sorted({int(figure(row, "seeds")) for row in rows})
    told = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{told} seed{'' if counts == [1] else 's'}"


def _name(column: str) -> str:
    return column.replace("_", " ")


def _finals(baseline: Row, others: Sequence[Row], axes: Sequence[str]) -> str:
    """At the end of training."""
    compare_to = str(baseline["arm"])
    told = [f"{_arm(baseline, axes)} ends at {estimate(baseline, 'cross_entropy')}"]
    for row in others:
        gap = _difference(row, "final_cross_entropy_minus_baseline", compare_to)
        told.append(f"{_arm(row, axes)} at {estimate(row, 'cross_entropy')}, {gap}")
    return f"{'; '.join(told)}."


def _difference(row: Row, column: str, compare_to: str, percent: bool = False) -> str:
    """What an arm differs, and from which where that is not the one that is told first."""
    told = difference(row, column, percent)
    return told if row["baseline"] == compare_to else f"{told}, against {row['baseline']}"


def _arm(row: Row, axes: Sequence[str]) -> str:
    at = setting(row, list(axes))
    return f"{row['arm']} ({at})" if at else str(row["arm"])


def _edges(rows: Sequence[Row], best: Sequence[Row], axes: Sequence[str]) -> list[str]:
    """Arms whose best value is the smallest or largest that was tried: a better one may lie beyond."""
    told = []
    for axis in axes:
        values = [v for row in rows if isinstance(v := row[axis], int | float)]
        ends = {min(values), max(values)} if len(set(values)) > 1 else set()
        at = [str(row["arm"]) for row in best if row[axis] in ends]
        if at:
            whose = "every arm" if len(at) == len(best) else listed(at)
            told.append(
                f"The best {_name(axis)} of {whose} is the smallest or largest that was tried: a better "
                f"one may lie beyond."
            )
    return told


def _equal_flops(baseline: Row, others: Sequence[Row]) -> list[str]:
    """What whole training costs; where arms differ in it, each at the total at which the cheapest ends."""
    flops = figure(baseline, "flops_compared")
    costs = [figure(row, "flops_total") for row in (baseline, *others)]
    if max(costs) <= (1 + _SAME) * min(costs):
        most = 100 * (max(costs) / min(costs) - 1)
        return [
            f"Whole training costs each arm {number(min(costs))} FLOPs, or at most {most:.2g}% more."
            if most
            else f"Whole training costs each arm {number(flops)} FLOPs."
        ]
    column = "cross_entropy_at_equal_flops"
    told = []
    for row in (baseline, *others):
        if not has(row, column):
            told.append(f"{row['arm']} has no validation as early")
            continue
        gap = ""
        if row is not baseline:
            gap = f", {_difference(row, f'{column}_minus_baseline', str(baseline['arm']))}"
        told.append(f"{row['arm']} {estimate(row, column)}{gap}")
    return [
        f"Whole training costs {number(min(costs))} to {number(max(costs))} FLOPs; at equal total FLOPs "
        f"({number(flops)}, between validations in a straight line over their logarithm): {'; '.join(told)}."
    ]


def _answers(baseline: Row, others: Sequence[Row]) -> list[str]:
    """pass@1 of the trained models, where they were asked."""
    if not has(baseline, "pass@1"):
        return []
    told = [f"{baseline['arm']} {estimate(baseline, 'pass@1', percent=True)}"]
    for row in others:
        if has(row, "pass@1"):
            gap = _difference(row, "final_pass@1_minus_baseline", str(baseline["arm"]), True)
            told.append(f"{row['arm']} {estimate(row, 'pass@1', percent=True)}, {gap}")
    return [f"pass@1 of the trained models: {'; '.join(told)}."]
