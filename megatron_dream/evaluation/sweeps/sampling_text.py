"""What a sampling sweep has found, in words, from its summary's rows alone."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Row
from .text import difference, estimate, figure, has, is_shown, listed, number, setting


def paragraph(
    rows: Sequence[Row], benchmark: str, axes: Sequence[str], scores: Sequence[str]
) -> str:
    """Baseline, best setting of each score, spread over each axis, cost, arms, and what chance does.

    Args:
        rows: with ``X_minus_baseline`` and ``is_baseline`` where the baseline is there.
        benchmark: its name.
        axes: columns that were varied.
        scores: pass@k that were asked for.
    """
    settings = [row for row in rows if row.get("best_of") is None]
    if not settings:
        return "Nothing is measured."
    grid = [row for row in settings if row.get("arm") == row.get("model")]
    namer = _Namer(grid, axes)
    baselines = [row for row in settings if row.get("is_baseline") == "yes"]
    baseline = baselines[0] if baselines else None
    first = settings[0]
    drawn = max(int(figure(row, "samples")) for row in settings)
    told = [
        f"{len(settings)} settings answered {first['tasks']} tasks of {benchmark}, "
        f"{drawn} {'answer' if drawn == 1 else 'answers'} a task; intervals are of 95%, over tasks."
    ]
    if len(baselines) == 1:
        of = listed([f"{name} {estimate(baselines[0], name, percent=True)}" for name in scores])
        told.append(f"The baseline, {namer(baselines[0])}, has {of}.")
    elif baselines:
        told.append(_several_baselines(baselines, scores[0], namer))
    ends = list(dict.fromkeys((scores[0], scores[-1])))  # the table has those between
    for name in ends:
        told.append(_best(settings, baselines, name, namer))
    told += [text for axis in axes if (text := _spread(grid, axis, ends))]
    if baseline is not None and len(baselines) == 1:
        told.append(_cheapest(settings, baseline, scores[0], namer))
    told += _chosen(rows, baseline)
    told.append(_chance(len(settings), len(baselines), len(ends)))
    return " ".join(text for text in told if text)


class _Namer:
    """Names a row by what tells it from the others."""

    def __init__(self, rows: Sequence[Row], axes: Sequence[str]) -> None:
        self.axes = axes
        self.has_models = len({row.get("model") for row in rows}) > 1

    def __call__(self, row: Row) -> str:
        if row.get("arm") != row.get("model"):
            return str(row.get("arm"))
        columns = [*(["model"] if self.has_models else []), *self.axes]
        return setting(row, columns) or str(row.get("model"))


def _best(rows: Sequence[Row], baselines: Sequence[Row], name: str, namer: _Namer) -> str:
    """The setting with the highest score, and how many differ from the baseline."""
    column = f"{name}_minus_baseline"
    best = max(rows, key=lambda row: figure(row, name))
    ties = sum(figure(row, name) == figure(best, name) for row in rows)
    text = f"The highest {name} is {estimate(best, name, percent=True)}, with {namer(best)}"
    text += f" and {ties - 1} more" if ties > 1 else ""
    others = [row for row in rows if row.get("is_baseline") == "no" and has(row, column)]
    if not baselines or not others:
        return f"{text}."
    if len(baselines) > 1:
        top = max(others, key=lambda row: figure(row, column))
        text += (
            f". The largest gain over its own baseline, on the same tasks, has {namer(top)}: "
            f"{difference(top, column, percent=True)}."
        )
    elif figure(best, name) == figure(baselines[0], name):
        text += ", no higher than the baseline."
    else:
        text += (
            f"; against the baseline on the same tasks: {difference(best, column, percent=True)}."
        )
    above = sum(is_shown(row, column) and figure(row, column) > 0 for row in others)
    below = sum(is_shown(row, column) and figure(row, column) < 0 for row in others)
    rest = len(others) - above - below
    whose = "the" if len(baselines) == 1 else "their"
    return (
        f"{text} Of the {len(others)} other settings {above} lie above {whose} baseline in {name}, {below} "
        f"below, and for {rest} no difference is shown."
    )


def _several_baselines(baselines: Sequence[Row], name: str, namer: _Namer) -> str:
    """How far those lie apart that settings are compared with."""
    low, high = (end(baselines, key=lambda row: figure(row, name)) for end in (min, max))
    return (
        f"Each is compared with the baseline that has its own values of the other axes; the {len(baselines)} "
        f"baselines have a {name} from {estimate(low, name, percent=True)}, with {namer(low)}, to "
        f"{estimate(high, name, percent=True)}, with {namer(high)}."
    )


def _spread(rows: Sequence[Row], axis: str, scores: Sequence[str]) -> str:
    """Between which means the values of an axis lie, each over the settings of the other axes."""
    values = list(dict.fromkeys(row[axis] for row in rows if row.get(axis) is not None))
    if len(values) < 2:
        return ""
    parts = []
    for name in scores:
        means = []
        for value in values:
            mine = [figure(row, name) for row in rows if row.get(axis) == value]
            means.append((sum(mine) / len(mine), value))
        (low, at_low), (high, at_high) = min(means, key=_first), max(means, key=_first)
        if low == high:
            parts.append(f"{name} is {100 * low:.1f}% everywhere")
        else:
            parts.append(
                f"{name} goes from {100 * low:.1f}% (at {_value(at_low)}) to {100 * high:.1f}% "
                f"(at {_value(at_high)})"
            )
    has_others = len(rows) > len(values)
    over = ", as means over the other settings" if has_others else ""
    return f"Over {axis.replace('_', ' ')}{over}, {listed(parts)}."


def _first(pair: tuple[float, object]) -> float:
    return pair[0]


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cheapest(rows: Sequence[Row], baseline: Row, name: str, namer: _Namer) -> str:
    """The setting with the fewest FLOPs of those that are not shown to be worse than the baseline."""
    column = f"{name}_minus_baseline"
    good = [
        row for row in rows
        if has(row, column) and not (is_shown(row, column) and figure(row, column) < 0)
    ]  # fmt: skip
    cheapest = min(good, key=lambda row: figure(row, "flops"), default=baseline)
    if figure(cheapest, "flops") >= figure(baseline, "flops"):
        return f"No setting has fewer FLOPs than the baseline without a lower {name}."
    flops = figure(cheapest, "flops") / figure(baseline, "flops")
    seconds = figure(cheapest, "seconds") / max(1e-12, figure(baseline, "seconds"))
    return (
        f"The cheapest setting that is not shown to be below the baseline in {name} is {namer(cheapest)}: "
        f"{number(flops)} of its FLOPs and {number(seconds)} of its seconds an answer, {name} "
        f"{estimate(cheapest, name, percent=True)}, {difference(cheapest, column, percent=True)}."
    )


def _chosen(rows: Sequence[Row], baseline: Row | None) -> list[str]:
    """Best of n: the largest n of each arm and way of choosing."""
    last: dict[object, Row] = {}
    for row in rows:
        if row.get("best_of") is not None:
            last[row["arm"]] = row
    told = []
    for arm, row in last.items():
        text = f"{arm}, n {row['best_of']}: {estimate(row, 'score', percent=True)}"
        if baseline is not None:
            text += (
                f" for {number(figure(row, 'flops') / figure(baseline, 'flops'))} times the baseline's "
                f"FLOPs, {difference(row, 'score_minus_baseline', percent=True)} in pass@1"
            )
        told.append(f"{text}.")
    return told


def _chance(num_settings: int, num_baselines: int, num_scores: int) -> str:
    """What is to be expected of so many comparisons."""
    comparisons = (num_settings - num_baselines) * num_scores
    if not num_baselines or comparisons < 2:
        return ""
    return (
        "The highest of several settings is chosen on the tasks that it is scored on, so its figure is "
        f"somewhat too high; and of {comparisons} differences about {0.05 * comparisons:.2g} are shown "
        "at 95% where there is none."
    )
