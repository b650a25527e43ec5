"""What curation leaves behind: the problems, those kept apart, the dropped ones, and two reports."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import atomic_write, write_json
from ..problems import KINDS, RlProblem, read_problems
from .decision import Decision
from .phase import Outcome

Decisions = Mapping[str, Sequence[Decision]]
RESULTS = ("problems.jsonl", "apart.jsonl", "dropped.jsonl", "report.json", "report.md")
_EXAMPLES = 3  # of each reason


def write_results(
    output: Path, problems: Callable[[], Iterator[RlProblem]], decisions: Decisions
) -> None:
    """problems.jsonl, apart.jsonl and dropped.jsonl.

    Args:
        output: folder.
        problems: gives all that were read, in order.
        decisions: of every phase, by its name.
    """
    later = {name: found for name, found in decisions.items() if name != "read"}
    fates = {d.id: d for found in later.values() for d in found}
    rates = {d.id: d.solve_rate for found in later.values() for d in found if d.fate == "rated"}
    with (
        atomic_write(output / "problems.jsonl") as kept,
        atomic_write(output / "apart.jsonl") as apart,
    ):
        for problem in problems():
            fate = fates[problem.id].fate if problem.id in fates else "rated"
            if fate == "dropped":
                continue
            if problem.id in rates:
                problem = dataclasses.replace(problem, solve_rate=rates[problem.id])
            (apart if fate == "apart" else kept).write(problem.to_line())
    with atomic_write(output / "dropped.jsonl") as stream:
        for phase, found in decisions.items():
            for decision in found:
                if decision.fate != "rated":
                    stream.write(json.dumps({"phase": phase, **decision.fields()}) + "\n")


def write_report(output: Path, outcomes: Sequence[Outcome], decisions: Decisions) -> None:
    """report.json and report.md."""
    counts: dict[str, collections.Counter[str]] = {
        "kind": collections.Counter(),
        "source": collections.Counter(),
    }
    num_rated, rates = 0, 0.0
    for problem in read_problems(output / "problems.jsonl"):
        counts["kind"][problem.kind] += 1
        counts["source"][problem.source or "unnamed"] += 1
        if problem.solve_rate is not None:
            num_rated, rates = num_rated + 1, rates + problem.solve_rate
    report = {
        "problems": outcomes[-1].num_after,
        "phases": [vars(outcome) for outcome in outcomes],
        "kind": {kind: counts["kind"][kind] for kind in KINDS},
        "source": dict(counts["source"].most_common()),
        "rated": num_rated,
        "mean_solve_rate": rates / num_rated if num_rated else None,
    }
    write_json(output / "report.json", report)
    with atomic_write(output / "report.md") as stream:
        stream.write("\n".join(_markdown(report, outcomes, decisions)) + "\n")


def _markdown(
    report: Mapping[str, Any], outcomes: Sequence[Outcome], decisions: Decisions
) -> Iterator[str]:
    yield f"# {report['problems']:,} problems\n"
    yield "| phase | before | after | dropped | kept apart | seconds |\n|---|---:|---:|---:|---:|---:|"
    for outcome in outcomes:
        dropped, apart = sum(outcome.reasons.values()), sum(outcome.apart.values())
        numbers = (outcome.num_before, outcome.num_after, dropped, apart)
        cells = " | ".join(f"{number:,}" for number in numbers)
        yield f"| {outcome.name} | {cells} | {outcome.seconds:.1f} |"
    for name in ("kind", "source"):
        yield f"\n| {name} | problems |\n|---|---:|"
        yield from (f"| {_cell(key)} | {count:,} |" for key, count in report[name].items())
    if report["rated"]:
        yield f"\n{report['rated']:,} have a solve rate, {report['mean_solve_rate']:.3f} on average."
    yield "\n## Dropped and kept apart\n"
    for outcome in outcomes:
        yield from (f"- {outcome.name}: {note}" for note in outcome.notes)
        for reason, count in {**outcome.reasons, **outcome.apart}.items():
            examples = [d for d in decisions[outcome.name] if d.reason == reason][:_EXAMPLES]
            told = "; ".join(f"`{_cell(d.id)}` {_cell(d.detail)}".strip() for d in examples)
            yield f"- {outcome.name}: {count:,} {reason}, such as {told}"


def _cell(text: str) -> str:
    """Foreign text in one line of Markdown."""
    return " ".join(text.split())[:160].replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
