"""``sample --history`` and ``order``: the file between them, the table, the files, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dream import cli
from megatron_dream.errors import DataError
from megatron_dream.evaluation import sample_command
from megatron_dream.evaluation.order import analyse, read_records
from megatron_dream.evaluation.order.command import run_order
from megatron_dream.evaluation.sampler import Sampler
from tests.unit.evaluation.letters import LetterTokenizer
from tests.unit.evaluation.order import constructed as made
from tests.unit.evaluation.order.constructed import CODE, tokens_of
from tests.unit.sampling.plain_definition import BOS, MASK, NUM_TOKENS, PAD, TinyModel


def line(steps: list[int], tokens: list[str], **more: Any) -> dict[str, Any]:
    settings = {"alg": "entropy", "max_new_tokens": len(tokens)}
    record = {"prefix": "", "tokens": tokens, "opened_step": steps, "num_tokens": len(tokens)}
    return {**record, "settings": settings, **more}


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> TinyModel:
    tiny = TinyModel(seed=2)
    sampler = Sampler(tiny, LetterTokenizer(), 64)  # type: ignore[arg-type]
    monkeypatch.setattr(sample_command, "load_model", lambda *_: sampler)
    return tiny


def sampled(tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    """What ``sample --history`` writes for two prompts of different lengths."""
    prompts = write(tmp_path / "p.jsonl", {"prompt": "abc"}, {"prompt": "fghij"})
    argv = ["sample", "m", "--jsonl", str(prompts), "--max-new-tokens", "12", "--seed", "1"]
    argv += ["--steps", "24"]
    assert cli.main([*argv, "--history", str(tmp_path / "h.jsonl"), *words]) == 0
    return [json.loads(text) for text in (tmp_path / "h.jsonl").read_text().splitlines()]


def test_a_history_holds_what_opened_when_and_how_sure_the_model_was_before(
    model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sampled(tmp_path, "-n", "2", "--temperature", "1", "--top-p", "0.5")
    assert [(one["prefix"], one["sample_index"]) for one in found] == [
        *(("abc", 0), ("abc", 1), ("fghij", 0), ("fghij", 1))
    ]
    for one in found:
        assert len(one["opened_step"]) == len(one["confidence"]) == 12
        assert set(one["opened_step"]) <= set(range(24)) and len(set(one["opened_step"])) > 8
        ends = [n for n, token in enumerate(one["tokens"]) if token == chr(ord("a") + PAD)]
        assert one["num_tokens"] == (ends[0] if ends else 12)
        settings = one["settings"]
        assert (settings["alg"], settings["steps"], settings["top_p"]) == ("entropy", 24, 0.5)
    ids = torch.tensor([[BOS, 0, 1, 2, *[MASK] * 12]])
    logits = model.forward(ids, None, None)[0, 3:-1].double()
    logits[:, MASK] = logits[:, NUM_TOKENS:] = -math.inf
    probs = logits.softmax(-1)
    entropy = -(probs * (probs + 1e-10).log()).sum(-1)
    assert found[0]["first_entropy"] == pytest.approx(entropy.tolist(), abs=1e-4)
    assert found[0]["first_entropy"] == found[1]["first_entropy"] != found[2]["first_entropy"]
    records = read_records(tmp_path / "h.jsonl")
    assert [one.steps for one in records] == [
        one["opened_step"][: one["num_tokens"]] for one in found
    ]


def test_the_verb_prints_a_table_and_writes_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tokens_of(CODE)
    count = len(tokens)
    entropies = [1.0] * count
    file = write(
        tmp_path / "h.jsonl",
        line(made.left_to_right(count), tokens, first_entropy=entropies),
        line(made.in_turn(count, 2), tokens, first_entropy=entropies),
        line([0, 1], ["a", "b"], num_tokens=1),
    )
    page = tmp_path / "page.html"
    assert cli.main(["order", str(file), "--output", str(tmp_path / "o"), "--page", str(page)]) == 0
    table = capsys.readouterr().out
    assert (tmp_path / "o" / "order.md").read_text() == table
    assert "2 samples" in table and "1 left out" in table
    assert "Labels: left-to-right 1, sketch-first 0, interleaved 1." in table
    rows = [text.split(" | ") for text in table.splitlines() if text.startswith("| 1 ")]
    assert rows[0][1:5] == ["left-to-right", "1.00", "1.00", "1.00"]
    assert (tmp_path / "o" / "order.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((tmp_path / "o" / "order.json").read_text())
    assert told["nulls"]["left to right"]["means"]["kendall"] == pytest.approx(1.0)
    low, high = told["nulls"]["origin"]["ranges"]["kendall"]
    assert -0.2 < low < 0 < high < 0.2
    assert told["early_structure"]["samples"] == 2
    assert "left-to-right" in page.read_text()


def test_the_nulls_keep_the_sizes_of_the_steps(tmp_path: Path) -> None:
    """Two steps of half a text each: local AR-ness of the shuffle is what chance gives, not 0 or 1."""
    count = 40
    file = write(tmp_path / "h.jsonl", line(made.left_to_right(count, 20), ["x"] * count))
    analysis = analyse(read_records(file))
    right, origin = analysis.nulls
    assert right.means["kendall"] == pytest.approx(analysis.means["kendall"])
    assert right.means["local@1"] == pytest.approx(analysis.means["local@1"])
    assert origin.means["local@1"] == pytest.approx(1 / count, rel=0.35)
    assert origin.means["global@1"] < right.means["global@1"]


def test_what_stands_behind_the_end_does_not_count(tmp_path: Path) -> None:
    count = 30
    steps = [*(s + 30 for s in range(count)), *range(30)]
    tokens = [*(["x", " "] * 15), *["<pad>"] * 30]
    file = write(tmp_path / "h.jsonl", line(steps, tokens, num_tokens=count))
    assert analyse(read_records(file)).means["kendall"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--block-length", "4"], "block_length 4"),
        (["--cache", "dual"], "block_length 32"),
        (["--pad-penalty", "2"], "pad_penalty 2.0"),
        (["--block-length", "12"], None),
        (["--block-length", "13"], None),
        (["--pad-penalty", "0"], None),
        ([], None),
    ],
)
def test_an_order_that_was_forced_is_refused(
    model: TinyModel, tmp_path: Path, words: list[str], name: str | None
) -> None:
    if "--cache" in words:
        file = write(
            tmp_path / "h.jsonl",
            line([0, 1, 2], ["a"] * 3, settings={"block_length": 32, "max_new_tokens": 64}),
        )
    else:
        sampled(tmp_path, *words)
        file = tmp_path / "h.jsonl"
    if name is None:
        run_order(file)
        return
    with pytest.raises(DataError, match=f"line 1: sampled with {name}, which forces"):
        run_order(file)
    assert analyse(read_records(file)).forced_by == name
    run_order(file, any_settings=True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prefix": None}, "prefix"),
        ({"tokens": [1, 2]}, "tokens"),
        ({"opened_step": [0]}, "opened_step"),
        ({"opened_step": [0, 1.5]}, "opened_step"),
        ({"num_tokens": 3}, "num_tokens"),
        ({"num_tokens": True}, "num_tokens"),
        ({"first_entropy": [0.1, math.nan]}, "first_entropy"),
        ({"confidence": ["x", 1]}, "confidence"),
        ({"confidence": [None, math.inf]}, "confidence"),
        ({"settings": []}, "settings"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    good = line([0, 1], ["a", "b"])
    file = write(tmp_path / "h.jsonl", good, {**good, **change})
    with pytest.raises(DataError, match=f"h.jsonl, line 2: the field '{field}'"):
        read_records(file)


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no file"):
        read_records(tmp_path / "missing.jsonl")
    (tmp_path / "h.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no sample"):
        read_records(tmp_path / "h.jsonl")
    (tmp_path / "h.jsonl").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match="h.jsonl is no text"):
        read_records(tmp_path / "h.jsonl")
    (tmp_path / "h.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match="line 1: this is no JSON object"):
        read_records(tmp_path / "h.jsonl")
    file = write(tmp_path / "h.jsonl", line([0, 1], ["a", "b"], num_tokens=1))
    with pytest.raises(DataError, match="no sample has two tokens"):
        run_order(file)
