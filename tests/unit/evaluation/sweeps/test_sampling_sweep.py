"""Kind ``sampling``: its grid, what it refuses, what it finds with a model that is made up, and the words."""

from __future__ import annotations

import ast
import contextlib
import csv
import json
import random

import pytest

from megatron_dream import cli
from megatron_dream.errors import ConfigError, UserError
from megatron_dream.evaluation.harness import models
from megatron_dream.evaluation.harness.flops import Shape
from megatron_dream.evaluation.harness.models import Made, Model
from megatron_dream.evaluation.harness.models import Row as Tokens
from megatron_dream.evaluation.harness.verdicts import JudgeOptions
from megatron_dream.evaluation.sweeps.choosing import (
    chosen_by_majority,
    majority_score,
    program_key,
)
from megatron_dream.evaluation.sweeps.sampling_text import paragraph
from megatron_dream.evaluation.sweeps.spec import read_sweep
from megatron_dream.sandbox import Outcome, Verdict

PROBLEM = {
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
NUM_TASKS = 6
YAML = """\
title: T
question: Q?
kind: sampling
models: {{made_up: {folder}/made_up, ar: {folder}/ar}}
benchmark: humaneval
style: base
data: {folder}/data
samples: 4
k: [1, 2]
batch_size: 4
settings: {{max_new_tokens: 8}}
isolation: process
workers: 1
vary:
  - name: temperature
    values: [0.1, 1.0]
  - name: penalty
    values:
      - {{label: 0, pad_penalty: 0}}
      - {{label: 1e-3, pad_penalty_factor: 1e-3}}
baseline: {{temperature: 0.1, penalty: 0}}
arms:
  - {{label: AR with cache, model: ar, settings: {{temperature: 0.5}}, best_of: [1, 4]}}
plots:
  - {{x: temperature, y: [pass@1, tokens], series: penalty}}
  - {{x: flops, y: [score], series: arm, log_x: true}}
note: Made up.
"""


@pytest.fixture
def folder(tmp_path):
    for name, architecture in (("made_up", "DreamModel"), ("ar", "LlamaForCausalLM")):
        (tmp_path / name).mkdir()
        content = {"architectures": [architecture], "model_type": "x"}
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    (tmp_path / "data").mkdir()
    lines = [json.dumps({**PROBLEM, "task_id": f"HumanEval/{n}"}) + "\n" for n in range(NUM_TASKS)]
    (tmp_path / "data" / "HumanEval.jsonl").write_text("".join(lines))
    return tmp_path


def write(folder, *changes):
    text = YAML.format(folder=folder)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "some.yaml"
    path.write_text(text)
    return path


def cells(folder, *changes):
    return read_sweep(write(folder, *changes)).kind.cells()


class MadeUp(Model):
    """Right in a share of draws that falls with the temperature; long answers under a factor."""

    kind, shape = "diffusion", Shape(1, 1, 1, 1)
    asked: list[tuple[str, int]] = []  # noqa: RUF012  over all instances of a test

    def encode(self, task, settings):
        return Tokens((1, 2))

    def answer(self, rows, seeds, tasks, settings):
        chance = 1.0 - settings.sampling.get("temperature", 0.0) / 2
        found = []
        for seed, task in zip(seeds, tasks, strict=True):
            self.asked.append((task.id, seed))
            right = random.Random(seed).random() < chance
            length = 8 if "pad_penalty_factor" in settings.sampling else 3
            text = "    return a + b\n" if right else f"    return {seed}\n"
            found.append(Made(text, length, 4, 8.0, 100.0, tuple(range(length))))
        return found


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(models, "open_model", lambda path, weights: MadeUp())
    monkeypatch.setattr(MadeUp, "asked", [])


def test_the_grid_and_the_arms(folder):
    found = cells(folder)
    assert [(c.columns["arm"], c.columns["temperature"], c.columns["penalty"]) for c in found] == [
        ("made_up", 0.1, 0), ("made_up", 0.1, 1e-3), ("made_up", 1.0, 0), ("made_up", 1.0, 1e-3),
        ("AR with cache", 0.5, "AR with cache"),
    ]  # fmt: skip
    assert found[1].fields["settings"] == {
        "max_new_tokens": 8, "temperature": 0.1, "pad_penalty_factor": 1e-3,
    }  # fmt: skip
    assert len({cell.key for cell in found}) == 5
    again = cells(folder, ("title: T", "title: Other"), ("note: Made up.", ""))
    assert [cell.key for cell in again] == [cell.key for cell in found]  # words change no cell
    arm = cells(folder, ("{max_new_tokens: 8}", "{max_new_tokens: 8, temperature: 0.3}"),
                ("settings: {temperature: 0.5}, ", ""))[-1]  # fmt: skip
    assert arm.columns["temperature"] is None  # a level: only its own settings are on the axis
    assert arm.fields["settings"] == {"max_new_tokens": 8, "temperature": 0.3}
    other = cells(folder, ("samples: 4", "samples: 5"))
    assert not {cell.key for cell in other} & {cell.key for cell in found}
    (folder / "ar" / "config.json").unlink()  # a cell is the same before its model is there
    assert [cell.key for cell in cells(folder)] == [cell.key for cell in found]


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("[0.1, 1.0]", "[0.1, 0.1]", "some.yaml:16: vary.0.values.1: 0.1 is there twice"),
        ("1e-3, pad_penalty_factor: 1e-3", "1e-3, pad_penalty_factor: 7", "yaml:20: vary.1.values.1: pad_p"),
        ("{label: 1e-3, ", "{", "vary.1.values.1 has no label"),
        ("name: penalty", "name: alg", "a mapping with a label under the name of a field"),
        ("name: temperature", "name: temperatures", "the nearest field is temperature"),
        ("{max_new_tokens: 8}", "{steps: 3}", "max_new_tokens is missing"),
        ("{max_new_tokens: 8}", "{max_new_tokens: 8, block_length: 4, steps: 1}", "fewer than the 2 blocks"),
        ("{max_new_tokens: 8}", "{max_new_tokens: 8, early_end: 1}", "settings.early_end is 1; give true or"),
        ("{max_new_tokens: 8}", "{max_new_tokens: 8, seed: 1}", "give seed of the sweep"),
        ("{label: 0, pad_penalty: 0}", "{label: 0, temperature: 0}", "temperature is set by the axes"),
        ("{temperature: 0.1, penalty: 0}", "{temperature: 0.2}", "baseline.temperature: no cell is so"),
        ("{temperature: 0.1, penalty: 0}", "{temp: 0.1}", "the nearest one is temperature"),
        ("{temperature: 0.5}", "{steps: 4}", "steps has no say for model ar"),
        ("k: [1, 2]", "k: [1, 9]", "k has 9 with 4 samples"),
        ("best_of: [1, 4]", "best_of: [5]", "arms.0.best_of is [5] with 4 samples"),
        ("model: ar", "model: at", "there is no model 'at'; the nearest one is ar"),
        ("label: AR with cache", "label: ar", "arms.0 needs a label of its own"),
    ],
)  # fmt: skip
def test_what_the_sampler_refuses_is_refused_before_anything_runs(folder, old, new, sentence):
    with pytest.raises(ConfigError) as caught:
        cells(folder, (old, new))
    assert sentence in str(caught.value) and "some.yaml" in str(caught.value)


def test_axes_have_no_say_for_a_model_from_left_to_right(folder):
    with pytest.raises(
        ConfigError, match="pad_penalty has no say for model ar, which goes from left"
    ):
        cells(folder, ("benchmark:", "grid_models: [made_up, ar]\nbenchmark:"))


def test_a_missing_model_is_told_before_the_first_cell(folder, made_up):
    path = write(folder, (f"{folder}/ar", f"{folder}/gone"))
    with pytest.raises(UserError, match=r"some.yaml:4: models.ar: .*gone does not exist"):
        read_sweep(path).kind.ready()
    assert cli.main(["sweep", str(path), "--output", str(folder / "out")]) == 2
    assert MadeUp.asked == []


def test_a_sweep_from_its_yaml_to_its_report(folder, made_up, capsys):
    words = ["sweep", str(write(folder)), "--output", str(folder / "out")]
    assert cli.main([*words, "--report"]) == 2  # nothing is there
    assert "no cell is measured" in capsys.readouterr().err
    assert cli.main([*words, "--shard", "1/2"]) == 0
    assert "2 of 5 cells are missing" in capsys.readouterr().out
    assert not list((folder / "out").glob("some*"))
    assert cli.main([*words, "--report"]) == 0
    assert "Not finished: 2 of 5 cells are missing" in capsys.readouterr().out
    asked = len(MadeUp.asked)
    assert cli.main([*words, "--shard", "2/2"]) == 0
    assert len(MadeUp.asked) - asked == 2 * 4 * NUM_TASKS + 4  # and a batch to warm up
    asked = len(MadeUp.asked)
    assert cli.main(words) == 0 and len(MadeUp.asked) == asked  # nothing is made twice
    assert cli.main([*words, "--list"]) == 0
    assert "5 cells, 0 missing" in capsys.readouterr().out
    check_report(folder / "out")


class Lost(contextlib.nullcontext):
    """A judge whose places are all down."""

    def verdicts(self, programs):
        return (Verdict(Outcome.INFRASTRUCTURE, detail="no place") for _ in programs)

    def __enter__(self):
        return self


def test_a_cell_of_which_judgements_are_lost_is_not_measured(folder, made_up, monkeypatch, capsys):
    words = ["sweep", str(write(folder)), "--output", str(folder / "out"), "--shard", "1/5"]
    with monkeypatch.context() as patch:
        patch.setattr(JudgeOptions, "start", lambda self, cpu_seconds: Lost())
        assert cli.main(words) == 2
    assert "24 of 24 samples could not be judged" in capsys.readouterr().err
    assert not list((folder / "out").rglob("rows.json"))
    asked = len(MadeUp.asked)
    assert cli.main(words) == 0 and len(MadeUp.asked) == asked  # the answers were there
    assert len(list((folder / "out").rglob("rows.json"))) == 1


def check_report(folder):
    told = json.loads((folder / "some.json").read_text())
    assert (
        told["cells"] == 5 and told["missing"] == 0 and told["plots"] == ["some.png", "some_2.png"]
    )
    assert told["yaml"].startswith("title: T") and told["note"] == "Made up."
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in told["plots"])
    with open(folder / "some.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5 + 4 and not any(name.startswith("_") for name in rows[0])
    by_cell = {(row["temperature"], row["penalty"]): row for row in rows if not row["best_of"]}
    cold, hot = by_cell["0.1", "0"], by_cell["1.0", "0"]
    assert float(cold["pass@1"]) > float(hot["pass@1"]) > 0
    assert float(hot["pass@2"]) >= float(hot["pass@1"]) >= float(hot["pass@1_low"])
    factor = by_cell["0.1", "0.001"]
    assert float(factor["pad_nats"]) == pytest.approx(6.9078, abs=1e-4)
    assert float(factor["pad_nats_drawn"]) == pytest.approx(69.078, abs=1e-3)
    assert (factor["tokens"], factor["share_full"], cold["share_full"]) == ("8.0", "1.0", "0.0")
    assert (cold["steps"], by_cell["0.5", "AR with cache"]["steps"]) == ("8", "")
    check_best_of({(row["arm"], row["best_of"]): row for row in rows})
    summary = {(row["temperature"], row["penalty"]): row for row in told["summary"]}
    paired = summary[1.0, 0]
    wanted = float(hot["pass@1"]) - float(cold["pass@1"])
    assert paired["pass@1_minus_baseline"] == pytest.approx(wanted)
    assert paired["pass@1_minus_baseline_low"] <= wanted <= paired["pass@1_minus_baseline_high"]
    assert summary[0.1, 0]["pass@1_minus_baseline"] == 0
    assert "The baseline, temperature 0.1, penalty 0, has pass@1" in told["paragraph"]


def check_best_of(rows):
    main = rows["AR with cache", ""]
    one, four = (rows["AR with cache, best of n by tests", n] for n in ("1", "4"))
    assert float(one["score"]) == pytest.approx(float(main["pass@1"]))
    assert float(four["score"]) >= float(rows["AR with cache, best of n by majority", "4"]["score"])
    assert float(four["flops"]) == 4 * float(main["flops"])
    assert four["penalty"] == four["arm"] and four["pass@1"] == ""


def test_where_nothing_is_drawn_one_answer_is_all(folder, made_up):
    path = write(folder, ("[0.1, 1.0]", "[0.0]"), ("{temperature: 0.1, penalty: 0}", "{penalty: 0}"),
                 ("arms:\n", ""), ("  - {label: AR with cache, model: ar, settings: {temperature: 0.5}, "
                 "best_of: [1, 4]}\n", ""), (f", ar: {folder}/ar", ""))  # fmt: skip
    assert cli.main(["sweep", str(path), "--output", str(folder / "out")]) == 0
    assert len(MadeUp.asked) == 2 * NUM_TASKS + 4
    row = json.loads((folder / "out" / "some.json").read_text())["rows"][0]
    assert (row["samples"], row["pass@2"], row["pad_nats_drawn"]) == (1, row["pass@1"], 0.0)


def test_programs_that_differ_in_layout_alone_are_equal():
    assert program_key("x = 1  # one\n") == program_key("x   =   1") != program_key("x = 2")
    assert program_key("def (") == "def (" and program_key("") == ""
    assert ast.dump(ast.parse("x = 1")) == program_key("x = 1")


def test_the_majority_chooses():
    assert chosen_by_majority(["a", "b", "b", "", "", ""]) == 1
    assert chosen_by_majority(["a", "b"]) == 0 and chosen_by_majority(["", ""]) == 0
    keys, passed = ["w", "r", "r", "v"], [False, True, True, False]
    assert majority_score(keys, passed, 4, "t") == 1.0
    # of 6 pairs {r, r} chooses r, {w, .} w, {r, v} r: 3 of 6
    assert majority_score(keys, passed, 2, "t") == pytest.approx(3 / 6)
    assert majority_score(keys, passed, 1, "t") == pytest.approx(2 / 4)
    many, right = keys * 10, passed * 10  # too many sets of 20: some are drawn, by the task's name
    assert 0 < majority_score(many, right, 20, "t") == majority_score(many, right, 20, "t") <= 1


def made_row(temperature, value, difference=None, flops=10.0, **more):
    low, high = (None, None) if difference is None else (difference - 0.05, difference + 0.05)
    row = {"arm": "m", "model": "m", "temperature": temperature, "tasks": 50, "samples": 4,
           "pass@1": value, "pass@1_low": value - 0.1, "pass@1_high": value + 0.1, "flops": flops,
           "seconds": 1.0, "best_of": None, "is_baseline": "no", "pass@1_minus_baseline": difference,
           "pass@1_minus_baseline_low": low, "pass@1_minus_baseline_high": high}  # fmt: skip
    return {**row, **more}


def test_the_paragraph_says_what_the_rows_say():
    rows = [
        made_row(0.1, 0.40, 0.0, is_baseline="yes", **{"pass@1_minus_baseline_low": 0.0,
                 "pass@1_minus_baseline_high": 0.0}),
        made_row(0.4, 0.52, 0.12),
        made_row(0.7, 0.43, 0.03, flops=2.5),
        made_row(1.5, 0.10, -0.30, flops=1.0),
    ]  # fmt: skip
    text = paragraph(rows, "toy", ["temperature"], ["pass@1"])
    for words in (
        "4 settings answered 50 tasks of toy, 4 answers a task",
        "The baseline, temperature 0.1, has pass@1 40.0% (30.0% to 50.0%).",
        "The highest pass@1 is 52.0% (42.0% to 62.0%), with temperature 0.4; against the baseline on the "
        "same tasks: 12 points above (7 to 17).",
        "Of the 3 other settings 1 lie above the baseline in pass@1, 1 below, and for 1 no difference is",
        "Over temperature, pass@1 goes from 10.0% (at 1.5) to 52.0% (at 0.4).",
        "is temperature 0.7: 0.25 of its FLOPs and 1 of its seconds an answer, pass@1 43.0% (33.0% to "
        "53.0%), no difference shown (+3 points, -2 to +8)",
        "of 3 differences about 0.15 are shown at 95% where there is none",
    ):
        assert words in text, text


def test_the_paragraph_does_not_praise_what_is_not_there():
    rows = [
        made_row(0.1, 0.0, 0.0, is_baseline="yes", **{"pass@1_minus_baseline_low": 0.0,
                 "pass@1_minus_baseline_high": 0.0}),
        made_row(0.4, 0.0, 0.0),
    ]  # fmt: skip
    text = paragraph(rows, "toy", ["temperature"], ["pass@1"])
    assert "no higher than the baseline" in text and "0 lie above" in text
    assert "pass@1 is 0.0% everywhere" in text and "above the baseline on" not in text
    assert "No setting has fewer FLOPs" in text
    without = [made_row(0.1, 0.2), made_row(0.4, 0.3)]  # of a report that is not finished
    assert "baseline" not in paragraph(without, "toy", ["temperature"], ["pass@1"])


def test_an_axis_that_the_baseline_leaves_out_is_compared_at_like_values(folder):
    """Also the paragraph names every baseline, and counts them as no comparison."""
    path = folder / "some.yaml"
    path.write_text(
        YAML.format(folder=folder).replace("{temperature: 0.1, penalty: 0}", "{penalty: 0}")
    )
    sweep = read_sweep(path)
    passed = {(0.1, 0): 1.0, (1.0, 0): 0.0, (0.1, 1e-3): 0.5, (1.0, 1e-3): 0.5}
    rows = [
        {"arm": "made_up", "model": "made_up", "temperature": t, "penalty": p, "tasks": 24, "samples": 4,
         "best_of": None, "flops": 1.0, "seconds": 1.0, "pass@1": value, "pass@2": value,
         "_tasks": json.dumps({f"pass@{k}": {str(n): value for n in range(24)} for k in (1, 2)})}
        for (t, p), value in passed.items()
    ]  # fmt: skip
    summary = sweep.kind.summary(rows)
    assert [row["is_baseline"] for row in summary] == ["yes", "yes", "no", "no"]
    assert [row["pass@1_minus_baseline"] for row in summary] == [0, 0, -0.5, 0.5]
    text = sweep.kind.paragraph(summary)
    assert "2 baselines have a pass@1 from 0.0%, with temperature 1, penalty 0, to 100.0%" in text
    assert "has temperature 1, penalty 0.001: 50 points above (50 to 50)" in text
    assert "Of the 2 other settings 1 lie above their baseline in pass@1, 1 below" in text
    assert "of 4 differences" in text
