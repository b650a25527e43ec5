"""The report of rl_demo.py: a table of all runs, curves of those with rewards, figures as JSON."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_dream.evaluation.plots import import_pyplot, save_figure  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402

HEADER = "| run | seeds | steps | minutes | sampled | greedy | pass@8 | sampled, mixed | sampled, always |"
SMOOTH = 5  # steps that a curve's point is the mean of


def steps_in(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run's steps in order; of one that was made again after an interruption the last."""
    found = {event["step"]: event for event in log if event["event"] == "step"}
    return [found[number] for number in sorted(found)]


def curve_of(log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a run's log tells of every step; empty lists for runs without rewards."""
    steps = [event for event in steps_in(log) if "solve_mean" in event]
    valid = [event for event in log if event["event"] == "validation" and "solve_mean" in event]
    names = ("solve_mean", "informative_share", "distinct_programs", "response_length")
    curve: dict[str, Any] = {name: [event[name] for event in steps] for name in names}
    curve["valid_step"] = [event["step"] for event in valid]
    curve["valid"] = [event["solve_mean"] for event in valid]
    phases: dict[str, float] = {}
    for event in steps:
        for name, seconds in event["seconds_by_phase"].items():
            phases[name] = phases.get(name, 0.0) + seconds
    total = sum(phases.values())
    curve["phases"] = {name: seconds / total for name, seconds in phases.items()}
    return curve


def groups_of(runs: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs by what they try, seeds together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, run in runs.items():
        groups.setdefault(name.rpartition("-")[0], []).append(run)
    return groups


def _line(name: str, runs: Sequence[dict[str, Any]]) -> str:
    def share(group: str, figure: str) -> str:
        if any(group not in run["figures"]["groups"] for run in runs):
            return "-"
        values = [run["figures"]["groups"][group][figure] for run in runs]
        spread = f" ({min(values):.1%} to {max(values):.1%})" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.1%}{spread}"

    minutes = statistics.fmean(run["seconds"] for run in runs) / 60
    cells = [
        name.replace("_", " "),
        str(len(runs)),
        str(runs[0]["steps"]),
        f"{minutes:.1f}",
        share("all", "sampled"),
        share("all", "greedy"),
        share("all", "pass_at_k"),
        share("mixed", "sampled"),
        share("always", "sampled"),
    ]
    return f"| {' | '.join(cells)} |"


def table_of(facts: dict[str, Any]) -> str:
    """Markdown; means over seeds, and the lowest and the highest where there are several."""
    start = {"figures": facts["start"], "seconds": 0.0, "steps": 0}
    lines = [HEADER, "|---|---|---|---|---|---|---|---|---|", _line("the start", [start])]
    lines += [_line(name, runs) for name, runs in groups_of(facts["runs"]).items()]
    return "\n".join(lines)


def plot(facts: dict[str, Any], path: Path) -> None:
    """Share of responses that pass, and of groups that are informative, by step."""
    pyplot = import_pyplot()
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4))
    colours = pyplot.get_cmap("tab10")
    rewarded = {name: run for name, run in facts["runs"].items() if run["curve"]["solve_mean"]}
    for index, (name, runs) in enumerate(groups_of(rewarded).items()):
        for number, run in enumerate(runs):
            for axes, what in zip(panels, ("solve_mean", "informative_share"), strict=True):
                values = run["curve"][what]
                means = [
                    statistics.fmean(values[max(0, n - SMOOTH + 1) : n + 1])
                    for n in range(len(values))
                ]
                label = None if number else name.replace("_", " ")
                steps = range(1, len(means) + 1)
                axes.plot(steps, means, color=colours(index % 10), label=label, linewidth=1.2)
    for axes, title in zip(
        panels, ("responses that pass, training problems", "informative groups"), strict=True
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylim(0, 1)
    panels[0].legend(fontsize=7)
    figure.tight_layout()
    save_figure(figure, path)


def page_of(facts: dict[str, Any]) -> str:
    """rl_demo.md."""
    shown = facts["demonstrations"]["demonstrations_right"]
    return (
        "# The RL demonstration, measured\n\n"
        "Written by `examples/tiny/rl_demo.py`; docs/rl_demo.md tells what is what. "
        f"{facts['count']} held-out problems, 8 answers each at temperature 1 in random order (sampled, "
        "pass@8), one greedy. Several seeds: mean (lowest to highest). "
        f"The demonstrations pass {shown['all']:.1%} of their own tests (mixed "
        f"templates {shown['mixed']:.1%}, always wrong ones {shown['always']:.1%}).\n\n"
        f"{table_of(facts)}\n\n{_phases(facts)}![share that passes, by step](rl_demo.png)\n"
    )


def _phases(facts: dict[str, Any]) -> str:
    """Where a step's time goes, one sentence; empty without such a run."""
    for name, run in facts["runs"].items():
        if phases := run["curve"].get("phases"):
            shares = ", ".join(
                f"{phase.replace('_', ' ')} {share:.0%}" for phase, share in phases.items()
            )
            return f"Where the time of a step goes ({name}): {shares}.\n\n"
    return ""


def write(facts: dict[str, Any], folder: Path) -> None:
    """All three files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "rl_demo.json", facts)
    plot(facts, folder / "rl_demo.png")
    with atomic_write(folder / "rl_demo.md") as stream:
        stream.write(page_of(facts))
    print(page_of(facts))
