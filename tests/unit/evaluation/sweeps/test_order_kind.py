"""Kind ``order``: cells, what is refused, figures of constructed histories, one cell of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.errors import DataError, UserError
from megatron_dream.evaluation.order.record import OrderRecord
from megatron_dream.evaluation.sweeps.order_kind import OrderSweep
from megatron_dream.evaluation.sweeps.order_rows import read_questions, rows_of
from tests.system.tiny_export import make_tiny_export

WHERE = Path("renderings.yaml")
FIELDS: dict[str, Any] = {
    "model": "runs/a",
    "prompts": {"function": "f.jsonl", "output": "o.jsonl"},
    "settings": {"max_new_tokens": 16},
    "algorithms": ["entropy", "origin"],
    "temperatures": [0.0, 1.0],
    "samples": 3,
}
TOKENS = ["def", " f", "(", "x", ")", ":", " return", " x", "+", "1"]


def record(number: int, steps: list[int]) -> OrderRecord:
    return OrderRecord("", TOKENS, steps, len(TOKENS), where=f"line {number}")


def test_cells_are_the_renderings_under_each_setting() -> None:
    cells = OrderSweep.parse(FIELDS, WHERE).cells()
    assert len({cell.key for cell in cells}) == len(cells) == 8
    assert list(cells[0].columns.values()) == ["function", "entropy", 0.0, "entropy at 0"]
    # greedy answers of entropy are all the same, random order draws
    assert [cell.fields["samples"] for cell in cells] == [1, 1, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"modle": "x"}, "modle is not a field; the nearest one is model"),
        ({"model": ""}, "model is missing"),
        ({"prompts": {"a": 3}}, "prompts.a is 3; give a file"),
        ({"samples": 0}, "samples is 0; give 1 or more"),
        ({"settings": {}}, "settings.max_new_tokens is missing"),
        (
            {"settings": {"max_new_tokens": 16, "alg": "entropy"}},
            "alg is no field of the sampler that",
        ),
        ({"settings": {"max_new_tokens": 16, "pad_penalty": 2.0}}, "pad_penalty 2.0 forces a part"),
        ({"settings": {"max_new_tokens": 16, "block_length": 8}}, "block_length 8 forces a part"),
        ({"algorithms": ["entropi"]}, "entropi"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        OrderSweep.parse({**FIELDS, **change}, WHERE).cells()
    assert sentence in str(caught.value) and "renderings.yaml" in str(caught.value)


def test_rows_of_known_orders() -> None:
    """Prompt 0 is written from left to right twice, prompt 1 backwards twice."""
    forward, backward = list(range(10)), list(range(9, -1, -1))
    records = [record(n, steps) for n, steps in enumerate([forward] * 2 + [backward] * 2)]
    model, left_to_right, origin = rows_of(records, [True, False, None, None], 2, 0)
    assert (model["order"], model["prompts"], model["samples"]) == ("model", 2, 2)
    ends = [model[f"kendall{end}"] for end in ("", "_low", "_high")]
    assert ends == pytest.approx([0.0, -1.0, 1.0])
    assert model["correct"] == 0.5 and model["share_left_to_right"] == 0.5
    assert model["early_structure"] is None
    assert json.loads(str(model["_prompts"]))["kendall"] == pytest.approx({"0": 1.0, "1": -1.0})
    assert left_to_right["order"] == "left to right" and left_to_right["kendall"] == pytest.approx(
        1.0
    )
    assert origin["order"] == "origin" and abs(float(str(origin["kendall"]))) < 0.3
    assert "correct" not in origin


def test_renderings_are_compared_prompt_by_prompt() -> None:
    sweep = OrderSweep.parse(FIELDS, WHERE)

    def row(rendering: str, values: list[float]) -> dict[str, Any]:
        prompts = json.dumps({"kendall": {str(n): value for n, value in enumerate(values)}})
        mean = sum(values) / len(values)
        estimate = {"kendall": mean, "kendall_low": mean - 0.1, "kendall_high": mean + 0.1}
        setting = {"rendering": rendering, "alg": "entropy", "temperature": 1.0, "order": "model"}
        return {**setting, **estimate, "_prompts": prompts}

    spread = [0.1 * (n % 10) for n in range(30)]  # far larger than the difference
    summary = sweep.summary([row("function", spread), row("output", [v + 0.05 for v in spread])])
    assert summary[0]["kendall_minus_function"] is None
    difference = [summary[1][f"kendall_minus_function{end}"] for end in ("", "_low", "_high")]
    assert difference == pytest.approx([0.05] * 3)
    text = sweep.paragraph(summary)
    assert "Against function on the same problems: output 0.05 above" in text
    same = sweep.summary([row("function", spread), row("output", spread[::-1])])
    assert "no difference shown" in sweep.paragraph(same)


def test_lines_that_are_no_questions(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    for text, sentence in (("", "is empty"), ('{"prompt": 3}', "line 1: field 'prompt'")):
        path.write_text(text)
        with pytest.raises(DataError, match=sentence):
            read_questions(path)
    with pytest.raises(DataError, match="is no file"):
        read_questions(tmp_path / "gone.jsonl")


def test_a_cell_of_a_tiny_model(tmp_path: Path) -> None:
    """Generated once: what is there is measured again to the same rows without the model."""
    model = make_tiny_export(tmp_path / "export")
    lines = [{"id": str(n), "prompt": text, "answer": "3"} for n, text in enumerate(("1+2", "3"))]
    prompts = tmp_path / "output.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = {**FIELDS, "model": str(model), "prompts": {"output": str(prompts)}, "samples": 2}
    sweep = OrderSweep.parse({**fields, "temperatures": [1.0], "algorithms": ["origin"]}, WHERE)
    sweep.ready()
    (cell,) = sweep.cells()
    folder = tmp_path / "cell"
    folder.mkdir()
    rows = sweep.measure(cell, folder)
    assert [row["order"] for row in rows] == ["model", "left to right", "origin"]
    assert (rows[0]["prompts"], rows[0]["samples"], rows[0]["correct"]) == (2, 2, 0.0)
    again = OrderSweep.parse({**fields, "model": "gone"}, WHERE)
    assert again.measure(cell, folder) == rows
    with pytest.raises(UserError, match="gone does not exist"):
        again.ready()
