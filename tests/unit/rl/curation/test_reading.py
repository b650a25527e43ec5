"""Files of known schemas: lines and rows, broken ones named, the rest unharmed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.errors import ConfigError, DataError
from megatron_dream.rl.curation.decision import Decision
from megatron_dream.rl.curation.reading import BROKEN, read_sources, sources_of
from megatron_dream.rl.problems import RlProblem
from tests.unit.rl.curation.test_schemas import CODEIO, DEEPCODER, GURU, KODCODE


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" if not isinstance(r, str) else r for r in records))
    return path


def write_table(path: Path, records: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def read(*inputs: str) -> tuple[list[RlProblem], list[Decision]]:
    outcomes = list(read_sources(sources_of(inputs)))
    return (
        [outcome for outcome in outcomes if isinstance(outcome, RlProblem)],
        [outcome for outcome in outcomes if isinstance(outcome, Decision)],
    )


@pytest.mark.parametrize(
    ("schema", "record"), [("kodcode", KODCODE), ("deepcoder", DEEPCODER), ("guru", GURU)]
)
def test_lines_and_tables_give_the_same(
    tmp_path: Path, schema: str, record: dict[str, Any]
) -> None:
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    write_lines(lines, [record])
    # a table has one type a column: no empty lists of nothing
    write_table(table, [{k: v for k, v in record.items() if v not in ([], {})}])
    (first,), none = read(f"{schema}:{lines}")
    (second,), none_again = read(f"{schema}:{table}")
    assert first == second and none == none_again == []


def test_a_folder_of_files_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write_table(tmp_path / "train" / "code.parquet", [GURU])
    write_table(
        tmp_path / "train" / "simulation.parquet", [CODEIO, {**CODEIO, "data_source": "math__x"}]
    )
    with gzip.open(tmp_path / "more.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({**GURU, "prompt": "Write `sub`."}) + "\n")
    problems, decisions = read(f"guru:{tmp_path}")
    assert [problem.kind for problem in problems] == ["function", "function", "output"]
    assert [d.reason for d in decisions] == ["no code problem (data_source math__x)"]


def test_broken_records_are_named_and_skipped(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "k.jsonl",
        [
            KODCODE,
            "{broken\n",
            {**KODCODE, "question_id": "b", "test": 5},
            "\n",
            {"question": "no id"},
            KODCODE,
            {**KODCODE, "question_id": "c"},
        ],
    )
    problems, decisions = read(f"kodcode:{path}")
    assert [problem.id for problem in problems] == ["kodcode/Leetcode_7_I", "kodcode/c"]
    *broken, twice = decisions
    assert [d.reason for d in broken] == [BROKEN] * 3
    for decision, words in zip(
        broken, ("line 2: broken JSON", "line 3: field 'test'", "line 5"), strict=True
    ):
        assert f"{path}, {words}" in decision.detail
    assert "question_id" in broken[2].detail
    assert twice == Decision("kodcode/Leetcode_7_I", "dropped", "an earlier record has its id")


def test_rows_of_tables_are_named(tmp_path: Path) -> None:
    path = write_table(tmp_path / "k.parquet", [KODCODE, {**KODCODE, "question": None}])
    problems, (broken,) = read(f"kodcode:{path}")
    assert len(problems) == 1 and f"{path}, row 2" in broken.detail and "question" in broken.detail


def test_a_table_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "k.parquet", [KODCODE])
    with pytest.raises(DataError, match="no field 'data_source'"):
        read(f"guru:{path}")


@pytest.mark.parametrize("given", ["x.jsonl", "humaneval:x.jsonl", "guru:", ":x"])
def test_inputs_without_a_schema_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="kodcode, deepcoder, guru, own"):
        sources_of([given])


def test_files_that_hold_no_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a\.txt is no JSON Lines"):
        sources_of([f"guru:{tmp_path / 'a.txt'}"])
    with pytest.raises(DataError, match="no such file"):
        sources_of([f"guru:{tmp_path / 'b.jsonl'}"])


def test_an_answer_that_nothing_can_be_compared_with_is_a_broken_record(tmp_path: Path) -> None:
    lines = [
        RlProblem("huge", "output", "What?", answer={"output": "{0x" + "f" * 5000 + ": 1}"}),
        RlProblem("plain", "output", "What?", answer={"output": "{1: 1}"}),
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(line.to_line() for line in lines))
    problems, (decision,) = read(f"own:{path}")
    assert [problem.id for problem in problems] == ["plain"]
    assert decision.reason == BROKEN and "own.jsonl, line 1" in decision.detail
