"""What the manifest of results takes, and the sentence for what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_dream.errors import UserError
from megatron_dream.evaluation.results.command import main
from megatron_dream.evaluation.results.manifest import read_results, refuse_strays
from tests.unit.evaluation.results.results_folder import MANIFEST, add_sweep, make_folder


def test_commits_come_from_the_json(tmp_path: Path) -> None:
    (entry,) = read_results(make_folder(tmp_path)).entries()
    assert entry.commit == "0123456, 0123456+changes"
    assert (entry.date, entry.machine) == ("2026-01-02", "2 cores")


def test_a_commit_of_the_log_and_one_that_nobody_recorded(tmp_path: Path) -> None:
    for number, commit in enumerate(("abcdef1", "not recorded")):
        text = MANIFEST.replace("a.json#runs.*.commit", commit)
        (entry,) = read_results(make_folder(tmp_path / str(number), text)).entries()
        assert entry.commit == commit


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "a.json#runs.*.commit",
            "fedcba9",
            r"commit fedcba9 stands neither in the log's part '2026-01-02, a day'",
        ),
        ("a.json#runs.*.commit", "abcdef1 and fedcba9", r"commit fedcba9 stands neither"),
        ("a.json#runs.*.commit", "'of yesterday'", r"commit of yesterday stands neither"),
        (
            "a.json#runs.*.commit",
            "a.json#runs.three.commit",
            r"a.json has no text under runs.three",
        ),
        ("a.json#runs.*.commit", "b.json#commit", r"b.json does not exist"),
        ("a.json#runs.*.commit", "''", r"Speed & size: commit is missing; write 'not recorded'"),
        ('"2026-01-02"', '"2026-01-05"', r"date 2026-01-05 stands neither"),
        ("command: python", "commandz: python", r"index.yaml.*commandz.*nearest one is .*command"),
        ("machine: 2 cores", "machine: ''", r"machine is missing\."),
        ("log: 2026-01-02, a day", "log: 2026-01-02, a", r"log.md has no part '2026-01-02, a'"),
        ("alt: speed by size", "alt: ' '", r"picture a.png has no alt"),
        ("a.md, a.json", "a.md, a.json, c.md", r"c.md does not exist; measure it by"),
        ("a.md, a.json", "a.json", r"a.md is in no entry of .*index.yaml"),
        ("title: Sweeps", "title: Training", r"'Training' is the title of two"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in MANIFEST
    with pytest.raises(UserError, match=sentence) as caught:
        refuse_strays(read_results(make_folder(tmp_path, MANIFEST.replace(old, new))))
    assert "\n" not in str(caught.value)


def damage(folder: Path) -> None:
    (folder / "a.json").write_text("{")


def not_text(folder: Path) -> None:
    (folder / "a.md").write_bytes(b"\xff\xfe")


def no_checks(folder: Path) -> None:
    text = MANIFEST.replace("files: [a.md, a.json]", "files: [a.md]\n        checks: a.json")
    (folder / "index.yaml").write_text(text)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (damage, r"a.json: no readable JSON"),
        (not_text, r"a.md: cannot be read as text"),
        (no_checks, r"a.json: not written by make acceptance"),
        (lambda folder: (folder / "a.png").unlink(), r"a.png does not exist; measure it by"),
        (lambda folder: (folder / "index.yaml").unlink(), r"index.yaml"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(
    tmp_path: Path, harm: Callable[[Path], None], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path)
    harm(folder)
    before = sorted(tmp_path.rglob("*"))
    assert main([], folder) == 2
    assert sorted(tmp_path.rglob("*")) == before
    told = capsys.readouterr().err.strip()
    assert sentence.replace("\\", "") in told
    assert "\n" not in told


def test_checks_are_a_table(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    no_checks(folder)
    check = {"commit": "c" * 40, "command": ["-m", "pytest", "a b"], "passed": False, "seconds": 1.6,
             "last_lines": ["..", "1 failed | 2"]}  # fmt: skip
    (folder / "a.json").write_text(json.dumps({"runs": {"x": check}, "noise": check}))
    (folder / "index.yaml").write_text(
        (folder / "index.yaml").read_text().replace("runs.*.commit", "noise.commit")
    )
    with pytest.raises(UserError, match="not written by make acceptance"):
        results = read_results(folder)
        results.figures(next(results.entries()))
    (folder / "a.json").write_text(json.dumps({"noise": check}))
    results = read_results(folder)
    table = dict(results.figures(next(results.entries())))["a.json"]
    assert table.splitlines()[2] == (
        "| noise | **no** | 2 | `ccccccc` | `python -m pytest 'a b'` | 1 failed \\| 2 |"
    )


def test_sweeps_come_in_by_themselves(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    add_sweep(folder, "steps")
    add_sweep(folder, "steps_other", missing=3, commits=["0123456+changes"])
    cell = folder / "sweeps" / "cells" / "key"
    cell.mkdir(parents=True)
    (cell / "rows.json").write_text("[]")
    results = read_results(folder)
    refuse_strays(results)
    sweeps = results.sections[1].entries
    assert [one.title for one in sweeps] == ["Sweep steps", "Sweep steps_other"]
    first, second = sweeps
    assert first.shows == "Does it matter? No difference shown."
    assert (first.commit, first.date) == ("0123456", "2026-01-03 to 2026-01-04")
    assert (first.machine, first.limits) == ("cores 2, device cpu", "One model.")
    assert first.files == [f"sweeps/steps{end}" for end in (".csv", ".json", ".md", "_summary.csv")]
    assert [one.file for one in first.pictures] == ["sweeps/steps.png", "sweeps/steps_2.png"]
    assert (first.misses, second.misses) == ([], ["3 cells are not measured."])
    assert second.commit == "0123456+changes"


def test_facts_of_a_sweep_in_the_singular(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    add_sweep(folder, "s", commits=None, commit="a" * 40, first_date=None, last_date=None,
              date="2026-02-03 04:05", machines=None, machine="2 cores")  # fmt: skip
    (sweep,) = read_results(folder).sections[1].entries
    assert (sweep.commit, sweep.date, sweep.machine) == ("aaaaaaa", "2026-02-03", "2 cores")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / "s.json").unlink(), r"s.csv: no sweep's JSON stands beside it"),
        (lambda folder: (folder / "s.json").write_text("{}"), r"s.json: title is missing"),
        (lambda folder: (folder / "s.json").write_text("[]"), r"s.json: no report of a sweep"),
        (lambda folder: (folder / "s.json").write_text("{"), r"s.json: no readable JSON"),
        (lambda folder: (folder / "t.png").write_text(""), r"t.png: no sweep's JSON"),
    ],
)
def test_a_sweep_that_does_not_say_where_it_is_from(
    tmp_path: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    folder = make_folder(tmp_path)
    add_sweep(folder, "s")
    harm(folder / "sweeps")
    with pytest.raises(UserError, match=sentence):
        refuse_strays(read_results(folder))


def test_sweeps_need_a_section(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, MANIFEST.replace("takes_sweeps: true", "takes_sweeps: false"))
    read_results(folder)
    add_sweep(folder, "s")
    with pytest.raises(UserError, match="0 sections have takes_sweeps"):
        read_results(folder)
