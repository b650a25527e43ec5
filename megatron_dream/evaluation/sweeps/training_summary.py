"""Means over seeds of a training sweep, each arm's best setting, and paired differences between arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .base import Row
from .statistics import estimate_columns, mean_over_seeds, paired_difference

METRICS = ("cross_entropy", "bound", "accuracy", "pass@1")
_AT_FLOPS = ("cross_entropy", "bound")
Group = tuple[str | int | float | None, ...]
BySeed = dict[int, list[Row]]


@dataclass(frozen=True)
class Curves:
    """The rows of one setting: by seed, in the order of steps."""

    columns: Row
    by_seed: BySeed

    def finals(self, metric: str) -> dict[int, float]:
        """A metric at the end of each seed's last run, where it is known."""
        values = {seed: _number(rows[-1].get(metric)) for seed, rows in self.by_seed.items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def end(self) -> float:
        """The fewest FLOPs at which a seed's last run ends."""
        return min(_flops(rows[-1]) for rows in self.by_seed.values())

    def at(self, flops: float, metric: str) -> dict[int, float]:
        """A metric after ``flops``; empty where a seed's last run has no validation as early."""
        found = {}
        for seed, rows in self.by_seed.items():
            known = [(_flops(row), _number(row.get(metric))) for row in rows]
            points = [(x, y) for x, y in known if y is not None]
            if not points or flops < points[0][0] * (1 - 1e-9):
                return {}
            xs, ys = zip(*points, strict=True)
            found[seed] = float(np.interp(math.log(flops), np.log(xs), ys))
        return found


def summary(rows: Sequence[Row], axes: Sequence[str], baselines: Mapping[str, str]) -> list[Row]:
    """A row for each setting and step.

    ``final_X`` stands in a setting's last row, ``best_X`` in the rows of an arm's best setting, and what
    compares arms in the last row of the best setting.

    Args:
        rows: as measured.
        axes: columns that make an arm's settings.
        baselines: by arm the arm that its differences are to.
    """
    curves = _curves(rows, axes)
    best = _best(curves)
    flops = min((one.end() for one in best.values()), default=0.0)
    found = []
    for one in curves:
        is_best = best.get(one.columns["arm"]) is one
        told = _rows(one, is_best)
        if is_best:
            name = baselines[str(one.columns["arm"])]
            told[-1] |= {"baseline": name} | _compared(one, best.get(name), flops)
        found += told
    return found


def _curves(rows: Sequence[Row], axes: Sequence[str]) -> list[Curves]:
    groups: dict[Group, BySeed] = {}
    for row in rows:
        seeds = groups.setdefault(tuple(row[name] for name in ("arm", *axes)), {})
        seeds.setdefault(int(str(row["seed"])), []).append(row)
    for seeds in groups.values():
        for of_seed in seeds.values():
            of_seed.sort(key=lambda row: int(str(row["step"])))
    return [
        Curves(dict(zip(("arm", *axes), group, strict=True)), seeds)
        for group, seeds in groups.items()
    ]


def _best(curves: Sequence[Curves]) -> dict[object, Curves]:
    """Of each arm the setting whose held-out cross-entropy is lowest in the mean over seeds."""
    found: dict[object, tuple[float, Curves]] = {}
    for one in curves:
        finals = one.finals("cross_entropy")
        if not finals:
            continue
        value = sum(finals.values()) / len(finals)
        arm = one.columns["arm"]
        if arm not in found or value < found[arm][0]:
            found[arm] = (value, one)
    return {arm: one for arm, (_, one) in found.items()}


def _rows(one: Curves, is_best: bool) -> list[Row]:
    """A setting's rows, step by step."""
    by_step: dict[int, list[Row]] = {}
    for rows in one.by_seed.values():
        for row in rows:
            by_step.setdefault(int(str(row["step"])), []).append(row)
    last, found = max(by_step), []
    for step, rows in sorted(by_step.items()):
        told: Row = {**one.columns, "seeds": len(rows), "step": step}
        told["flops_total"] = sum(map(_flops, rows)) / len(rows)
        told["is_best"] = "yes" if is_best else "no"
        told["is_last"] = "yes" if step == last else "no"
        for metric in METRICS:
            values = [v for row in rows if (v := _number(row.get(metric))) is not None]
            estimate = mean_over_seeds(values) if values else None
            told |= estimate_columns(metric, estimate)
            told |= estimate_columns(f"final_{metric}", estimate if step == last else None)
            told |= estimate_columns(f"best_{metric}", estimate if is_best else None)
        found.append(told)
    return found


def _compared(one: Curves, baseline: Curves | None, flops: float) -> Row:
    """An arm's best setting against that of the arm that all are compared to."""
    told: Row = {}
    for metric in METRICS:
        of_base = {} if baseline in (None, one) else baseline.finals(metric)
        told |= _difference(f"final_{metric}_minus_baseline", one.finals(metric), of_base)
    told["flops_compared"] = flops
    for metric in _AT_FLOPS:
        mine, name = one.at(flops, metric), f"{metric}_at_equal_flops"
        estimate = mean_over_seeds(list(mine.values())) if mine else None
        told |= estimate_columns(name, estimate)
        of_base = {} if baseline in (None, one) else baseline.at(flops, metric)
        told |= _difference(f"{name}_minus_baseline", mine, of_base)
    return told


def _difference(name: str, mine: Mapping[int, float], theirs: Mapping[int, float]) -> Row:
    is_paired = any(seed in theirs for seed in mine)
    return dict(estimate_columns(name, paired_difference(mine, theirs) if is_paired else None))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _flops(row: Row) -> float:
    return float(str(row["flops_total"]))
