"""Suites and tables: what belongs to whom, our numbers beside the paper's, nothing that was not measured."""

import dataclasses

import pytest

from megatron_dream.errors import ConfigError, DataError
from megatron_dream.evaluation.harness.command import Evaluation, _changes, _report
from megatron_dream.evaluation.harness.evaluators import compare, comparison_table, read_evalplus
from megatron_dream.evaluation.harness.published import PUBLISHED, TABLES
from megatron_dream.evaluation.harness.scores import Estimate, Scores
from megatron_dream.evaluation.harness.suite import suite
from megatron_dream.evaluation.harness.tables import Result, paper_tables, sampler_rows


def scores(value, **more):
    return Scores({1: Estimate(value, value - 0.1, value + 0.1)}, 164, 164, **more)


def test_the_papers_suite_by_kind_of_model():
    instruct, base = suite("paper", "instruct"), suite("paper", "base")
    assert "livecodebench" in instruct and "livecodebench" not in base
    assert {"humaneval_plus", "mbpp_plus"} <= set(instruct) and "evalplus" not in instruct
    assert "lm_eval:mmlu" in base and "infilling_random" in base
    assert suite("paper", "base", ["mmlu", "humaneval"]) == ("lm_eval:mmlu", "humaneval")
    assert suite("cruxeval_input_direct", "base") == ("cruxeval_input_direct",)


@pytest.mark.parametrize("name, tasks", [("papers", ()), ("code", ("mmlu",)), ("infilling", ())])
def test_what_is_in_no_suite_is_told(name, tasks):
    with pytest.raises(ConfigError):
        suite(name, "instruct", tasks)


def test_every_published_score_has_a_source_and_a_row():
    rows = {(row, table.style) for table in TABLES for row in table.rows}
    assert set(PUBLISHED) <= rows
    assert all(score.source and 0 < score.percent < 100 for score in PUBLISHED.values())


def test_the_table_shows_both_and_says_what_is_missing():
    results = {
        "humaneval": [Result(scores(0.5)), Result(scores(0.1))],
        "bigcodebench_instruct": [Result(None, note="left to its own evaluator")],
        "humaneval_plus": [Result(scores(0.4))],
        "mbpp_plus": [Result(scores(0.6))],
    }
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:]]
        for line in paper_tables(results, "instruct", {}).splitlines()
        if line.startswith("| ")
    }
    assert rows["HumanEval"][:4] == ["50.0", "40.0 to 60.0", "164", "82.9"]
    assert rows["MBPP"][0] == "not measured" and rows["MBPP"][3] == "79.6"
    assert rows["EvalPlus (mean of HumanEval+ and MBPP+)"][0] == "50.0"
    assert rows["BigCodeBench instruct (full)"][0].startswith("not scored: left to")
    assert all(len(cells) == 6 for cells in rows.values()), rows


def test_base_tables_take_the_harness_scores_and_claim_no_paper_number():
    text = paper_tables({}, "base", {"mmlu": Estimate(0.25, 0.2, 0.3)})
    assert "| mmlu | 25.0 | 20.0 to 30.0 |" in text
    assert text.count("not known here") == sum(len(t.rows) for t in TABLES if t.style == "base")


def test_rows_of_the_sampler_and_their_area():
    results = {
        "humaneval": [
            Result(
                scores(
                    0.6, tokens_per_pass=1.0, outcomes={"passed": 98, "failed": 60, "timeout": 6}
                ),
                512,
            ),
            Result(scores(0.4, tokens_per_pass=2.0, outcomes={"passed": 164}), 256),
        ]
    }
    first, second = sampler_rows(results).splitlines()[2:]
    assert "| 512 | 60.0 | 1.00 | 0.500 |" in first and "failed 60, timeout 6" in first
    assert "| 256 | 40.0 | 2.00 | 0.500 |" in second and second.endswith("none |")


def test_differences_of_two_evaluators():
    ours = [
        {"task_id": "a", "sample_index": 0, "passed": True, "outcome": "passed", "test": "", "detail": ""},
        {"task_id": "a", "sample_index": 1, "passed": False, "outcome": "failed", "test": "line 3",
         "detail": "x | y"},
        {"task_id": "b", "sample_index": 0, "passed": False, "outcome": "timeout", "test": "", "detail": ""},
    ]  # fmt: skip
    found = compare(ours, {("a", 0): "pass", ("a", 1): "pass"})
    assert (found.num_samples, found.num_agreed, found.num_passed_ours) == (2, 1, 1)
    assert "| a | 1 | failed | pass | line 3 x \\| y |" in comparison_table("n", "EvalPlus", found)


def test_evalplus_results(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(
        '{"eval": {"a": [{"base_status": "pass", "plus_status": "fail"},'
        ' {"base_status": "pass", "plus_status": "pass"}]}}'
    )
    assert read_evalplus(path, is_base=True) == {("a", 0): "pass", ("a", 1): "pass"}
    assert read_evalplus(path, is_base=False) == {("a", 0): "fail", ("a", 1): "pass"}
    path.write_text('{"eval": {"a": [{}]}}')
    with pytest.raises(DataError, match=r"no results of evalplus"):
        read_evalplus(path, is_base=True)


def test_a_score_of_a_part_or_of_other_settings_is_told(tmp_path):
    part = {"bigcodebench_instruct": [Result(scores(0.5, num_unjudged=900))]}
    assert "(900 left out: not the paper's score)" in paper_tables(part, "instruct", {})
    wanted = Evaluation(tmp_path, "paper", "instruct", tmp_path, tmp_path)
    assert _changes(wanted) == ""
    changed = dataclasses.replace(wanted, steps=(64, 512), limit=5, sampling={"temperature": 0.5})
    told = _changes(changed)
    assert "temperature 0.5, steps 64, limit 5" in told
    _report(changed, part, {})
    assert (tmp_path / "results.md").read_text().startswith(told)
