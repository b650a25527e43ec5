"""Reports: counts by kind and source, and foreign text that stays text."""

from __future__ import annotations

import json
from pathlib import Path

from megatron_dream.rl.curation.decision import Decision
from megatron_dream.rl.curation.phase import (
    Outcome,
    done_outcome,
    finish,
    prepare_folder,
    read_decisions,
)
from megatron_dream.rl.curation.report import write_report, write_results
from megatron_dream.rl.problems import read_problems
from tests.unit.rl.curation.helpers import function, script, value

PROBLEMS = [function("a"), script("b"), value("c"), value("d")]
DECISIONS = {
    "read": [Decision("a", "dropped", "an earlier record has its id")],
    "tests": [Decision("b", "dropped", "few", "evil | `cell`\n# <b>title")],
    "references": [Decision("c", "apart", "not judged")],
    "difficulty": [Decision("d", "rated", solve_rate=0.5)],
}


def outcomes() -> list[Outcome]:
    before = [5, 4, 3, 2]
    found = []
    for (name, decisions), count in zip(DECISIONS.items(), before, strict=True):
        found.append(Outcome(name, count))
        found[-1].count(decisions)
    return found


def test_results_and_reports(tmp_path: Path) -> None:
    write_results(tmp_path, lambda: iter(PROBLEMS), DECISIONS)
    kept = list(read_problems(tmp_path / "problems.jsonl"))
    assert [(p.id, p.solve_rate) for p in kept] == [("a", None), ("d", 0.5)]
    assert [p.id for p in read_problems(tmp_path / "apart.jsonl")] == ["c"]
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["id"]) for line in dropped] == [
        ("read", "a"),
        ("tests", "b"),
        ("references", "c"),
    ]
    told = outcomes()
    assert [outcome.num_after for outcome in told] == [4, 3, 2, 2]
    write_report(tmp_path, told, DECISIONS)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["kind"] == {"function": 1, "stdin": 0, "output": 1}
    assert report["source"] == {"made": 2} and report["mean_solve_rate"] == 0.5
    text = (tmp_path / "report.md").read_text()
    assert "evil \\| 'cell' # &lt;b>title" in text and text.count("\n# ") == 0


def test_a_line_for_people_says_what_went_and_why() -> None:
    assert outcomes()[1].line() == "tests: 3 of 4 kept; dropped 1: 1 few"
    assert outcomes()[2].line() == "references: 2 of 3 kept; kept apart 1: 1 not judged"


def test_a_phase_is_done_only_for_what_it_was_done_for(tmp_path: Path) -> None:
    folder = tmp_path / "2-tests"
    prepare_folder(folder)
    (folder / "half").write_text("done")
    assert done_outcome(folder, "one") is None
    finish(folder, "one", outcomes()[1], DECISIONS["tests"])
    assert done_outcome(folder, "one") == outcomes()[1]
    assert read_decisions(folder) == DECISIONS["tests"]
    assert done_outcome(folder, "other") is None
    prepare_folder(folder)
    assert not (folder / "half").exists()  # another run's
