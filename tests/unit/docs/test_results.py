"""docs/results.md and the report against the files that they are made of."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from megatron_dream.evaluation.results.entries import Entry
from megatron_dream.evaluation.results.manifest import (
    REPORT,
    Results,
    read_results,
    refuse_strays,
    sources,
)
from megatron_dream.evaluation.results.page import results_page
from megatron_dream.evaluation.results.report import report_html

DOCS = Path(__file__).resolve().parents[3] / "docs"
FOLDER = DOCS / "results"
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


@pytest.fixture(scope="module")
def results() -> Results:
    return read_results(FOLDER)  # also: every commit and date is recorded where the entry says


def test_every_file_is_in_an_entry(results: Results) -> None:
    """But for one's own measurements that are not committed, such as those of make gpu-check."""
    git = ["git", "ls-files", "--others", "-z", "--", str(FOLDER)]
    found = subprocess.run(git, cwd=FOLDER, capture_output=True, text=True, check=False)
    refuse_strays(results, [FOLDER / name for name in found.stdout.split("\0") if name])


def test_the_page_is_what_the_generator_makes(results: Results) -> None:
    written = (DOCS / "results.md").read_text(encoding="utf-8")
    assert written == results_page(results), "run make results"


def test_the_report_is_what_the_generator_makes(results: Results) -> None:
    written = (FOLDER / REPORT).read_text(encoding="utf-8")
    assert written == report_html(results), "run make results"


def told(entry: Entry) -> str:
    """Everything that an entry rests on."""
    names = [name for name in entry.all_files if name.endswith(".json")]
    return "\n".join([sources(entry, FOLDER), *((FOLDER / n).read_text("utf-8") for n in names)])


def test_figures_stand_where_the_entry_says(results: Results) -> None:
    """Each figure of an entry of the manifest, as it is spelled, is in its files or pages."""
    lost = []
    for entry in results.entries():
        known = set(NUMBER.findall(told(entry)))
        figures = set(NUMBER.findall(" ".join([entry.shows, *entry.misses, entry.conditions])))
        is_sweep = any(name.startswith("sweeps/") for name in entry.all_files)
        lost += [] if is_sweep else [(entry.title, one) for one in sorted(figures - known)]
    assert lost == []


def test_what_missed_its_aim_is_marked(results: Results) -> None:
    """What the log calls missed of the measurements that stand is among the misses."""
    missed = {entry.title for entry in results.entries() if entry.misses}
    assert {
        "CART in O(S) against the dense product",
        "Speed of the judge",
        "Gaps in held-out functions of the standard library",
        "Predictions against published runs",
        "Preprocessing and a blend's index",
    } <= missed
