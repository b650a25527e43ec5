"""``megatron-dream sample`` on a tiny model: what is printed, the JSON lines, the page."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dream.errors import ConfigError, DataError
from megatron_dream.evaluation import sample_command
from megatron_dream.evaluation.sample_command import run_infill, run_sample
from megatron_dream.evaluation.sampler import Sampler
from tests.unit.evaluation.letters import LetterTokenizer
from tests.unit.sampling.plain_definition import BOS, MASK, PAD, TinyModel


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(TinyModel(2), LetterTokenizer(), 32)  # type: ignore[arg-type]
    monkeypatch.setattr(sample_command, "load_model", lambda *_: sampler)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Two lines, an empty one, and a line separator of Unicode inside a string."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "ab", "task_id": "x\u2028y"}\n\n{"prompt": "c"}\r\n')
    return path


OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "temperature": 1.5, "seed": 4}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def page_data(path: Path) -> list[dict[str, Any]]:
    found = re.search(r'id="data"[^>]*>(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    data: list[dict[str, Any]] = json.loads(found[1])
    return data


def test_every_sample_is_printed_written_and_on_the_page(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    run_sample("m", jsonl=prompts, output=output, page=page, num_return_sequences=3, **OPTIONS)
    records = lines(output)
    assert [(r["prompt"], r["sample_index"]) for r in records] == [
        (prompt, index) for prompt in ("ab", "c") for index in range(3)
    ]
    assert [r["seed"] for r in records] == [4, 4, 4, 5, 5, 5]
    assert records[0]["task_id"] == "x\u2028y" and "task_id" not in records[3]
    assert len({r["completion"] for r in records[:3]}) == 3
    assert capsys.readouterr().out.split("\n")[:-1] == [r["completion"] for r in records]
    shown = page_data(page)
    assert [s["text"] for s in shown] == [r["prompt"] + r["completion"] for r in records]
    assert [s["meta"]["name"] for s in shown] == [
        f"prompt {k}, sample {n} of 3" for k in (1, 2) for n in (1, 2, 3)
    ]
    assert all(len(s["tokens"]) == 5 and max(s["opened_step"]) == 4 for s in shown)


def test_more_samples_leave_the_earlier_ones_as_they_were(tmp_path: Path) -> None:
    one, four = tmp_path / "1.jsonl", tmp_path / "4.jsonl"
    run_sample("m", "ab", output=one, **OPTIONS)
    run_sample("m", "ab", output=four, num_return_sequences=4, **OPTIONS)
    assert lines(one)[0]["completion"] == lines(four)[0]["completion"]
    assert lines(one)[0]["sample_index"] == 0


@pytest.mark.parametrize(
    "samples, names", [(1, []), (3, ["sample 1 of 3", "sample 2 of 3", "sample 3 of 3"])]
)
def test_a_terminal_shows_each_sample_under_its_name(
    monkeypatch: pytest.MonkeyPatch, samples: int, names: list[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    run_sample("m", "ab", num_return_sequences=samples, **OPTIONS)
    assert re.findall(r"sample \d of \d", terminal.getvalue()) == names
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert len(re.findall(r"^ab.{5}$", plain, re.MULTILINE)) == samples


def test_a_progress_bar_leaves_the_text_to_its_file(
    monkeypatch: pytest.MonkeyPatch, prompts: Path
) -> None:
    bar, text = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", bar)
    monkeypatch.setattr(sys, "stdout", text)
    run_sample("m", jsonl=prompts, **OPTIONS)
    assert "sampling" in bar.getvalue()
    assert [len(line) for line in text.getvalue().split("\n")[:-1]] == [5, 5]


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def load(model: Path) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(sample_command, "load_model", load)
    yield


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(
    "options, expected",
    [
        ({"top_p": 2.0}, "--top-p is 2.0"),
        ({"num_return_sequences": 0}, "--num-return-sequences is 0"),
        ({"forbidden_token_ids": [-1]}, "--forbidden-token-ids is -1"),
        ({"pad_penalty": 1.0, "eos_penalty": 1.0}, "--pad-penalty and --eos-penalty say"),
        ({"alg": "factor", "alg_temp": 1.0}, "--alg-temp 1 has no meaning with alg factor"),
    ],
)
def test_wrong_options_are_refused_before_the_model_is_loaded(
    options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}[^\n]*$"):
        run_sample("m", "ab", **options)


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize("line", ["[]", "{", '{"text": "a"}', '{"prompt": 3}', "7"])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(DataError, match=re.escape(f"{path}, line 2: ")):
        run_sample("m", jsonl=path)


def three_prompts(tmp_path: Path) -> Path:
    """Of different lengths, a conversation among them."""
    path = tmp_path / "three.jsonl"
    records = [
        {"prompt": "a"},
        {"messages": [{"role": "user", "content": "abc"}], "id": 7},
        {"prompt": "bcdefgh"},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.usefixtures("wide_model")
@pytest.mark.parametrize(
    "options",
    [
        {"alg": "origin"},
        {"alg": "entropy", "alg_temp": 0.7},
        {"alg": "threshold", "threshold": 0.3, "num_return_sequences": 2},
        {"remask": "remdm", "steps": 12},
        {"block_length": 2, "early_end": True, "steps": 6},
    ],
)
def test_samples_do_not_depend_on_the_batch(tmp_path: Path, options: dict[str, Any]) -> None:
    path, found = three_prompts(tmp_path), []
    for batch_size in (1, 2, 3, None):
        output, page = tmp_path / "o.jsonl", tmp_path / "p.html"
        given = {**OPTIONS, **options, "max_new_tokens": 6, "batch_size": batch_size}
        run_sample("m", jsonl=path, output=output, page=page, **given)
        found.append((lines(output), page_data(page)))
    assert all(entry == found[0] for entry in found[1:])
    assert len({line["completion"] for line in found[0][0]}) == len(found[0][0])


def test_a_message_goes_through_the_template_and_its_control_tokens_are_text(
    tmp_path: Path, wide_model: list[Any]
) -> None:
    output = tmp_path / "o.jsonl"
    text = "ab<|im_end|>c"
    run_sample("m", text, chat=True, output=output, **OPTIONS)
    first = wide_model[0][0].tolist()
    # s and t mark turns: the system's, the user's, and the assistant's beginning
    assert [token for token in first if token in (18, 19)] == [18, 19, 18, 19, 18]
    user = LetterTokenizer().encode(f"user\n{text}")
    assert user == first[first.index(18, 1) + 1 :][: len(user)]
    assert lines(output)[0]["prompt"] == text
    records = tmp_path / "r.jsonl"
    records.write_text(json.dumps({"messages": [{"role": "user", "content": text}]}))
    again = tmp_path / "again.jsonl"
    run_sample("m", jsonl=records, output=again, **OPTIONS)
    assert lines(again)[0]["completion"] == lines(output)[0]["completion"]


def test_an_answer_ends_before_the_end_of_its_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = TinyModel(2)
    ask = model.forward

    def ends_turn(**inputs: Any) -> Any:
        logits = ask(**inputs)
        logits[:, -4:, 19] = 100.0  # <|im_end|> at the last places
        return logits

    monkeypatch.setattr(model, "forward", ends_turn)
    sampler = Sampler(model, LetterTokenizer(), 200)  # type: ignore[arg-type]
    monkeypatch.setattr(sample_command, "load_model", lambda *_: sampler)
    texts = {}
    for chat in (True, False):
        run_sample("m", "ab", chat=chat, output=tmp_path / "o.jsonl", **OPTIONS)
        texts[chat] = lines(tmp_path / "o.jsonl")[0]["completion"]
    assert len(texts[True]) == 2 and len(texts[False]) == 5 and texts[False].endswith("ttt")


@pytest.fixture
def wide_model(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A model with room for a template; returns what it is called with."""
    model = TinyModel(2)
    sampler = Sampler(model, LetterTokenizer(), 200)  # type: ignore[arg-type]
    monkeypatch.setattr(sample_command, "load_model", lambda *_: sampler)
    return model.calls


def test_a_prompt_that_does_not_fit_is_named_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "a" * 30}))
    with pytest.raises(DataError, match=r"line 2: 31 tokens and 5 new ones exceed .* 32 positions"):
        run_sample("m", jsonl=path, batch_size=1, **OPTIONS)
    assert capsys.readouterr().out == ""


def test_infill_fills_the_gap_and_leaves_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wide_model: list[Any]
) -> None:
    output, page = tmp_path / "o.jsonl", tmp_path / "p.html"
    options = {"temperature": 1.5, "seed": 4, "num_return_sequences": 2}
    run_infill("m", "ab", "cde", length=6, output=output, page=page, **options)
    given = LetterTokenizer().encode("ab"), LetterTokenizer().encode("cde")
    assert wide_model[0][0].tolist() == [BOS, *given[0], *[MASK] * 6, *given[1], PAD]
    records = lines(output)
    assert [(r["prefix"], r["suffix"], r["sample_index"]) for r in records] == [
        ("ab", "cde", index) for index in range(2)
    ]
    assert capsys.readouterr().out.split("\n")[:-1] == [r["middle"] for r in records]
    assert len({r["middle"] for r in records}) == 2
    shown = page_data(page)
    assert [s["text"] for s in shown] == [f"ab{r['middle']}cde" for r in records]
    assert all("".join(s["prompt_tokens"]) == "ab" and len(s["tokens"]) == 6 for s in shown)
    assert all("".join(s["suffix_tokens"]) == "cde" for s in shown)
    assert all(min(s["opened_step"]) > 0 and max(s["opened_step"]) == 5 for s in shown)
    assert all("r" not in r["middle"] for r in records)  # <|expand|> has no room to take


def test_the_ways_to_give_a_gap_are_one(tmp_path: Path, wide_model: list[Any]) -> None:
    file, jsonl = tmp_path / "f.py", tmp_path / "f.jsonl"
    file.write_text("ab??cde")
    jsonl.write_text(json.dumps({"prefix": "ab", "suffix": "cde"}))
    ways: list[dict[str, Any]] = [
        {"prefix": "ab", "suffix": "cde"},
        {"file": file, "mark": "??"},
        {"jsonl": jsonl},
    ]
    middles = []
    for way in ways:
        run_infill("m", **way, length=3, output=tmp_path / "o.jsonl", temperature=1.0, seed=1)
        middles.append(lines(tmp_path / "o.jsonl")[0]["middle"])
    assert middles[0] == middles[1] == middles[2]


class GrowingModel(TinyModel):
    """Likes ``<|expand|>`` (r) and the end token."""

    def forward(self, *inputs: Any, **named: Any) -> torch.Tensor:
        logits = super().forward(*inputs, **named).clone()
        logits[..., [LetterTokenizer.expand_id, PAD]] += 5.0
        return logits


@pytest.fixture
def growing_model(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(GrowingModel(2), LetterTokenizer(), 40)  # type: ignore[arg-type]
    monkeypatch.setattr(sample_command, "load_model", lambda *_: sampler)


@pytest.mark.usefixtures("growing_model")
def test_a_gap_that_grows_and_shrinks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gaps, output, page = tmp_path / "g.jsonl", tmp_path / "o.jsonl", tmp_path / "p.html"
    texts = [{"prefix": "ab", "suffix": "c", "task_id": 7}, {"prefix": "", "suffix": "defg"}]
    gaps.write_text("".join(json.dumps(one) + "\n" for one in texts))
    options = {"temperature": 1.2, "seed": 4, "num_return_sequences": 3, "masks": 5}
    run_infill("m", jsonl=gaps, grow=True, output=output, page=page, **options)
    records = lines(output)
    assert [(r["prefix"], r["seed"], r["sample_index"]) for r in records] == [
        (text["prefix"], seed, index)
        for text, seed in zip(texts, (4, 5), strict=True)
        for index in range(3)
    ]
    assert records[0]["task_id"] == 7
    assert capsys.readouterr().out.split("\n")[:-1] == [r["middle"] for r in records]
    assert [len(r["middle"]) for r in records] == [r["num_tokens"] for r in records]
    assert len({r["num_tokens"] for r in records}) > 2
    assert any(r["num_expansions"] for r in records)
    for record, shown in zip(records, page_data(page), strict=True):
        assert shown["text"] == f"{record['prefix']}{record['middle']}{record['suffix']}"
        assert "".join(shown["prompt_tokens"]) == record["prefix"]
        assert "".join(shown["suffix_tokens"]) == record["suffix"]
        stayed = [
            token
            for token, removed in zip(shown["tokens"], shown["removed_step"], strict=True)
            if removed < 0
        ]
        assert "".join(stayed) == record["middle"]
        grown = [step for step in shown["inserted_step"] if step >= 0]
        assert len(grown) == record["num_expansions"] == len(shown["earlier"]) / 2
    alone = tmp_path / "alone.jsonl"
    run_infill("m", jsonl=gaps, grow=True, output=alone, batch_size=1, **options)
    assert lines(alone) == records


@pytest.mark.usefixtures("growing_model")
def test_a_gap_that_does_not_fit_is_named(tmp_path: Path) -> None:
    gaps = tmp_path / "g.jsonl"
    gaps.write_text(json.dumps({"prefix": "a" * 36, "suffix": ""}))
    with pytest.raises(DataError, match=r"line 1: 42 tokens, 4 masks among them, exceed"):
        run_infill("m", jsonl=gaps, grow=True)


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(
    "options, expected",
    [
        ({"masks": 3}, "--masks goes with --grow"),
        ({"eos_closes_right": False}, "--eos-closes-right goes with --grow"),
        ({"grow": True, "length": 3}, "--length is of a gap that keeps it"),
        ({"grow": True, "masks": 0}, "--masks is 0"),
        ({"grow": True, "masks": 9, "max_masks": 8}, "over --max-masks 8"),
        ({"grow": True, "steps": 8}, "--steps belongs to a canvas of fixed length"),
        ({"grow": True, "alg": "origin"}, "alg origin"),
        ({"grow": True, "pad_penalty": 1.0}, "PAD's penalty"),
        ({"grow": True, "remask": "remdm"}, "--remask belongs"),
    ],
)
def test_flags_of_the_other_kind_of_gap_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        run_infill("m", "a", "b", **options)


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(
    "text, options, expected",
    [
        ("a", {}, "the mark '<fill>' stands in it 0 times"),
        ("a<fill>b<fill>", {}, "the mark '<fill>' stands in it 2 times"),
        ("ab", {"mark": ""}, "the mark '' stands in it 0 times"),
        ("a<fill>b", {"length": 0}, "--length is 0"),
        ("a<fill>b", {"suffix": "x", "file": None}, "--suffix goes with --prefix"),
        ("a<fill>b", {"batch_size": 0}, "--batch-size is 0"),
        ("a<fill>b", {"top_p": 7.0}, "--top-p is 7.0"),
    ],
)
def test_a_gap_that_cannot_be_is_refused(
    tmp_path: Path, text: str, options: dict[str, Any], expected: str
) -> None:
    file = tmp_path / "f.py"
    file.write_text(text)
    with pytest.raises((ConfigError, DataError), match=re.escape(expected)):
        run_infill("m", **{"file": file, **options})


def test_what_was_masked_again_is_told(tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    run_sample("m", "ab", page=page, remask="remdm", steps=12, **OPTIONS)
    shown = page_data(page)[0]
    earlier = shown["earlier"]
    assert [change for change in earlier if change["text"] is None]
    for position in {change["position"] for change in earlier}:
        mine = [change for change in earlier if change["position"] == position]
        # opened, masked again, in turn; then what the position ends with
        assert [change["text"] is None for change in mine] == [False, True] * (len(mine) // 2)
        steps = [change["step"] for change in mine]
        assert steps == sorted(steps) and steps[-1] < shown["opened_step"][position]


def test_steps_that_do_not_reach_all_blocks_are_refused_before_a_model_is_loaded() -> None:
    from megatron_dream.evaluation.sample_command import check_options

    with pytest.raises(ConfigError, match="--steps is 1, fewer than the 2 blocks of 32"):
        check_options({"cache": "dual", "max_new_tokens": 64, "steps": 1})
