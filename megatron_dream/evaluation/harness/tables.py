"""Our numbers beside the paper's, as Markdown; and one row for every setting of the sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..benchmarks.registry import BENCHMARKS
from .published import PUBLISHED, TABLES, Table
from .scores import Estimate, Scores, area_under_accuracy

_NAMES = {"evalplus": "EvalPlus (mean of HumanEval+ and MBPP+)"}
_HEAD = "| benchmark | ours, % | 95% interval | tasks | paper, % | paper's model and source |"
_ROWS_HEAD = (
    "| benchmark | steps | pass@1, % | tokens/pass | area | AR-ness local | global | TFLOP/answer "
    "| s/answer | failures |"
)


@dataclass(frozen=True)
class Result:
    """What was found for one benchmark under one setting.

    Attributes:
        scores: None where nothing could be scored.
        steps: of the schedule; None: it has none.
        note: why something is missing.
        num_lost: samples whose judgement failed for no fault of theirs.
    """

    scores: Scores | None
    steps: int | None = None
    note: str = ""
    num_lost: int = 0


Results = Mapping[str, Sequence[Result]]


def paper_tables(results: Results, style: str, others: Mapping[str, Estimate]) -> str:
    """Every table of the paper that is about models of this style.

    Args:
        results: by benchmark; of several settings the first is shown, the published one.
        style: of the prompts that were used.
        others: scores of lm-evaluation-harness's tasks, by name.
    """
    parts = [_paper_table(table, results, others) for table in TABLES if table.style == style]
    return "\n".join(parts)


def _paper_table(table: Table, results: Results, others: Mapping[str, Estimate]) -> str:
    lines = [f"### {table.title}", "", _HEAD, "|---|---|---|---|---|---|"]
    for name in table.rows:
        task = name.removeprefix("lm_eval:")
        estimate, tasks = _ours(name, task, results, others)
        published = PUBLISHED.get((task, table.style))
        theirs = "not known here | " if published is None else (
            f"{published.percent} | {published.model}; {published.source}"
        )  # fmt: skip
        lines.append(f"| {_title(task)} | {estimate} | {tasks} | {theirs} |")
    return "\n".join(lines) + "\n"


def _ours(
    name: str, task: str, results: Results, others: Mapping[str, Estimate]
) -> tuple[str, str]:
    if name.startswith("lm_eval:"):
        found = others.get(task)
        return (_cells(found), "") if found else ("not measured |", "")
    if name == "evalplus":
        return _mean_of_plus(results)
    result = next(iter(results.get(name, ())), None)
    if result is None:
        return "not measured |", ""
    if result.scores is None:
        return f"not scored: {result.note} |", ""
    scores = result.scores
    left_out = scores.num_unjudged and f" ({scores.num_unjudged} left out: not the paper's score)"
    return _cells(scores.pass_at[1]), f"{scores.num_tasks}{left_out or ''}"


def _mean_of_plus(results: Results) -> tuple[str, str]:
    both = [next(iter(results.get(name, ())), None) for name in ("humaneval_plus", "mbpp_plus")]
    scores = [result.scores for result in both if result is not None and result.scores is not None]
    if len(scores) < 2:
        return "not measured |", ""
    value = sum(score.pass_at[1].value for score in scores) / 2
    return f"{value:.1%} |".replace("%", ""), " + ".join(str(s.num_tasks) for s in scores)


def _cells(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} | {100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _title(name: str) -> str:
    if name in BENCHMARKS:
        return BENCHMARKS[name].title
    return _NAMES.get(name, name)


def sampler_rows(results: Results) -> str:
    """One row for every benchmark and setting; under rows of several steps the area under accuracy."""
    lines = [_ROWS_HEAD, "|" + "---|" * 10]
    for name, found in results.items():
        scored = [result for result in found if result.scores is not None]
        area = area_under_accuracy(
            (result.scores.tokens_per_pass, result.scores.pass_at[1].value)
            for result in scored
            if result.scores is not None and result.scores.tokens_per_pass is not None
        )
        for result in found:
            if result.scores is None:
                lines.append(
                    f"| {_title(name)} | {result.steps or ''} | {result.note} |" + " |" * 7
                )
            else:
                lines.append(_sampler_row(_title(name), result.scores, result.steps, area))
    return "\n".join(lines) + "\n"


def _sampler_row(title: str, scores: Scores, steps: int | None, area: float | None) -> str:
    failures = ", ".join(
        f"{outcome} {count}"
        for outcome, count in sorted(scores.outcomes.items(), key=lambda pair: -pair[1])
        if outcome != "passed"
    )
    cells = [
        title,
        str(steps or "-"),
        f"{100 * scores.pass_at[1].value:.1f}",
        _number(scores.tokens_per_pass),
        _number(area, 3),
        _number(scores.local_ar_ness),
        _number(scores.global_ar_ness),
        f"{scores.flops / 1e12:.3g}",
        f"{scores.seconds:.3g}",
        failures or "none",
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
