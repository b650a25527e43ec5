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

from megatron_dream.errors import ConfigError, DataError
from megatron_dream.evaluation import sample_command
from megatron_dream.evaluation.sample_command import run_sample
from megatron_dream.evaluation.sampler import Sampler
from tests.unit.sampling.plain_definition import BOS, MASK, NUM_TOKENS, PAD, TinyModel


class LetterTokenizer:
    """Token k is the k-th letter."""

    bos_id, mask_id, pad_id, eos_id, vocab_size = BOS, MASK, PAD, PAD, NUM_TOKENS

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(self.token_text, ids))

    def token_text(self, token: int) -> str:
        return chr(ord("a") + token)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(TinyModel(2), LetterTokenizer(), 32)  # type: ignore[arg-type]
    monkeypatch.setattr(sample_command, "load_model", lambda model: sampler)


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
