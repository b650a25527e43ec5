"""``analyze-lengths``: the table's figures against generations made by hand, and what the sampler is told."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dream import cli
from megatron_dream.errors import ConfigError, DataError, UserError
from megatron_dream.evaluation import lengths
from megatron_dream.evaluation.length_figures import (
    Figures,
    Penalty,
    correlation,
    figures_of,
    pass_at_k,
    pass_rates,
    table_of,
)
from megatron_dream.evaluation.lengths import analyze_lengths
from megatron_dream.evaluation.sampler import Sampler
from tests.unit.evaluation.letters import LetterTokenizer
from tests.unit.sampling.plain_definition import PAD, VOCABULARY

A, B, END_OF_PROMPT = 0, 1, 15


class Counting:
    """Answers a prompt of n a's and a p with n b's, then PAD; ``margin``: nats between the two."""

    def __init__(self, margin: float = 40.0) -> None:
        self.margin = margin

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: Any
    ) -> torch.Tensor:
        logits = torch.full((*input_ids.shape, VOCABULARY), -1e4)
        for row, ids in enumerate(input_ids.tolist()):
            start, count = ids.index(END_OF_PROMPT), ids.count(A)
            for column in range(len(ids)):
                is_b = column - start < count  # the token behind the column
                logits[row, column, B] = self.margin if is_b else 0.0
                logits[row, column, PAD] = 0.0 if is_b else self.margin
        return logits


def use(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    sampler = Sampler(model, LetterTokenizer(), 64)  # type: ignore[arg-type]
    monkeypatch.setattr(lengths, "load_model", lambda *_: sampler)


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def numbers(**kept: Any) -> dict[str, Any]:
    return {"temperature": 1.0, "penalty": Penalty(0.0), "max_new_tokens": 8, **kept}


def test_the_figures_of_generations_made_by_hand() -> None:
    one = figures_of(
        [[0, 2, 8, 8], [0, 0, 4, 2]],
        [3, None],
        [[False, True, False, False], None],
        **numbers(),
    )
    assert one.samples == 8 and one.mean == 3.0
    assert one.quantiles == {0.1: 0.0, 0.5: 2.0, 0.9: 8.0}
    assert one.ends_at_once == 3 / 8 and one.fills_canvas == 2 / 8
    assert one.right == 3.0 and one.excess == 1.5  # (0 + 2 + 8 + 8) / 4 - 3
    assert one.correlation is None  # one right length only
    assert one.pass_at == {1: 0.25, 2: 0.5, 4: 1.0}


def test_correlation_is_that_of_all_samples() -> None:
    one = figures_of([[1, 3], [5, 7]], [1, 2], [None, None], **numbers())
    # deviations -3, -1, 1, 3 and -1/2, -1/2, 1/2, 1/2: 4 / sqrt(20 x 1)
    assert one.correlation == pytest.approx(4 / math.sqrt(20))
    assert one.pass_at == {}
    assert correlation([2.0], [1.0]) is None and correlation([], []) is None


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_all_ways_to_draw(samples: int) -> None:
    for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        marks = [n < right for n in range(samples)]
        draws = list(itertools.combinations(marks, k))
        assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_rates_are_means_over_prompts_for_powers_of_two() -> None:
    found = pass_rates([[True] * 6, [False] * 6, [True, *[False] * 5]])
    assert found == pytest.approx({1: (1 + 1 / 6) / 3, 2: (1 + 2 / 6) / 3, 4: (1 + 4 / 6) / 3})
    assert pass_rates([]) == {}


def test_penalties_in_nats_and_over_the_temperature() -> None:
    factor = Penalty.of_factor(1e-3)
    assert factor.nats == pytest.approx(6.9078, abs=1e-4) and Penalty.of_factor(1.0).nats == 0.0
    assert [str(p) for p in (Penalty(3.0), factor)] == ["3", "6.9 (factor 0.001)"]
    assert factor.options() == {"pad_penalty_factor": 1e-3}
    assert Penalty(3.0).options() == {"pad_penalty": 3.0}

    def ratio(penalty: Penalty, temperature: float) -> float | None:
        one = figures_of([[1]], [None], [None], **numbers(penalty=penalty, temperature=temperature))
        return one.penalty_over_temperature

    assert ratio(Penalty(3.0), 0.5) == 6.0 and ratio(Penalty(3.0), 0.0) is None
    assert ratio(Penalty(0.0), 0.0) == 0.0


def test_penalties_asked_for() -> None:
    def nats(*given: Any) -> list[float]:
        return [round(penalty.nats, 1) for penalty in lengths.penalties_of(*given)]

    assert nats(None, None) == [0, 1, 3]
    assert nats(None, [1e-12, 1e-3]) == [6.9, 27.6]
    assert nats([8, 0, 8], [1e-3]) == [0, 6.9, 8]


def test_lengths_rates_and_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, Counting())
    asked = write(
        tmp_path / "p.jsonl",
        {"prompt": "aap", "answer": "bb\n", "length": 5},  # what is said counts
        {"prompt": "p", "answer": "b"},
        {"prompt": "aaaaap", "length": 9},
        {"prompt": "ap"},
    )
    found = analyze_lengths(
        "m",
        asked,
        tmp_path / "out",
        temperature=[0, 1],
        pad_penalty=[0],
        max_new_tokens=[8, 4],
        samples=3,
    )
    keys = [(one.max_new_tokens, one.temperature, one.samples) for one in found]
    assert keys == [(8, 0, 4), (8, 1, 12), (4, 0, 4), (4, 1, 12)]
    for one, longest in zip(found, (5, 5, 4, 4), strict=True):
        assert one.mean == (2 + 0 + longest + 1) / 4
        assert one.ends_at_once == 0.25 and one.fills_canvas == (longest == 4) / 4
        assert one.right == 5.0  # 5, 1 and 9
        assert one.excess == pytest.approx((2 - 5 + 0 - 1 + longest - 9) / 3)
        assert one.pass_at == ({1: 0.5} if one.temperature == 0 else {1: 0.5, 2: 0.5})
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "out" / "lengths.md").read_text() == table_of(found)
    assert shown.splitlines()[0].endswith("correlation | pass@1 | pass@2 |")
    assert len({line.count("|") for line in shown.splitlines()}) == 1
    written = json.loads((tmp_path / "out" / "lengths.json").read_text())
    assert written["num_prompts"] == 4 and written["seed"] == 0
    assert [entry["mean"] for entry in written["figures"]] == [one.mean for one in found]
    assert written["figures"][0]["quantiles"] == pytest.approx({"0.1": 0.3, "0.5": 1.5, "0.9": 4.1})
    assert (tmp_path / "out" / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_without_answers_the_table_has_no_columns_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, Counting())
    asked = write(tmp_path / "p.jsonl", {"prompt": "ap"})
    analyze_lengths("m", asked, tmp_path / "out", max_new_tokens=[4])
    head = capsys.readouterr().out.splitlines()[0]
    assert head.endswith("fills the canvas |") and (tmp_path / "out" / "lengths.png").exists()


def test_a_penalty_reaches_the_sampler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PAD leads by 2 nats; in a single step the whole penalty counts."""
    use(monkeypatch, Counting(margin=2.0))
    asked = write(tmp_path / "p.jsonl", {"prompt": "p"})
    found = analyze_lengths(
        "m", asked, tmp_path / "out", temperature=[0], pad_penalty=[0, 1.9, 2.1],
        pad_penalty_factor=[0.5, 0.1], max_new_tokens=[6], steps=1, quiet=True,
    )  # fmt: skip
    assert [(round(one.penalty.nats, 1), one.mean) for one in found] == [
        (0.0, 0), (0.7, 0), (1.9, 0), (2.1, 6), (2.3, 6),
    ]  # fmt: skip


def test_a_colder_sampler_feels_a_penalty_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Odds of PAD after one step: exp((2 - penalty) / T); at T 1/2 and penalty 3 one in 8.4."""
    use(monkeypatch, Counting(margin=2.0))
    asked = write(tmp_path / "p.jsonl", *[{"prompt": "p"}] * 4)
    found = analyze_lengths(
        "m", asked, tmp_path / "out", temperature=[0.5, 1], pad_penalty=[3], max_new_tokens=[1],
        samples=200, batch_size=4, steps=1, quiet=True,
    )  # fmt: skip
    expected = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(1))]
    for one, share in zip(found, expected, strict=True):
        assert one.samples == 800
        assert one.ends_at_once == pytest.approx(share, abs=4 * math.sqrt(share / 800))


def test_all_settings_draw_from_the_same_seeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, Counting(margin=0.0))
    asked = write(tmp_path / "p.jsonl", *[{"prompt": "p"}] * 3)

    def run(**options: Any) -> list[Figures]:
        return analyze_lengths(
            "m", asked, tmp_path / "out", temperature=[1, 1.5], pad_penalty=[0], max_new_tokens=[12],
            samples=4, quiet=True, **options,
        )  # fmt: skip

    first = run()
    # equal logits stay equal at any temperature
    assert first[0].quantiles == first[1].quantiles and first == run(batch_size=1)
    assert run(seed=9) != first


@pytest.mark.parametrize(
    "line, expected",
    [
        ("[]", "no JSON object"),
        ('{"text": "a"}', "'prompt'"),
        ('{"prompt": "a", "answer": 3}', "'answer' is no text"),
        ('{"prompt": "a", "length": -1}', "'length' is -1"),
        ('{"prompt": "a", "length": true}', "'length' is True"),
        ('{"prompt": "a", "length": "7"}', "'length' is '7'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(DataError, match=re.escape(f"{path}, line 2: ")) as caught:
        analyze_lengths("no model is loaded", path, tmp_path / "out")
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"temperature": [0, -1.0]}, "--temperature is -1.0"),
        ({"pad_penalty": [-3.0]}, "--pad-penalty is -3.0"),
        ({"pad_penalty_factor": [1e-3, 0.0]}, "--pad-penalty-factor is 0"),
        ({"pad_penalty_factor": [2.0]}, "--pad-penalty-factor is 2.0"),
        ({"max_new_tokens": [8, 0]}, "--max-new-tokens is 0"),
        ({"samples": 0}, "--samples is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"top_p": 2.0}, "--top-p is 2.0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(
    tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}[^\n]*$"):
        analyze_lengths("m", tmp_path / "missing.jsonl", tmp_path, **options)


def test_no_prompt_and_a_prompt_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, Counting())
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ConfigError, match="no prompt in"):
        analyze_lengths("m", empty, tmp_path / "out")
    asked = write(tmp_path / "p.jsonl", {"prompt": "ap"}, {"prompt": "aap"})
    with pytest.raises(DataError, match=r"p\.jsonl, line 2: 4 tokens and 61 new ones"):
        analyze_lengths("m", asked, tmp_path / "out", max_new_tokens=[8, 61], quiet=True)


def test_the_command_line_passes_lists_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(lengths, "analyze_lengths", lambda **given: seen.append(given))
    words = "analyze-lengths M --prompts p.jsonl --output o --temperature 0 1.5 --pad-penalty 0 3"
    more = "--pad-penalty-factor 1e-12 --max-new-tokens 64 128 --samples 8 --chat --top-p 0.9"
    assert cli.main([*words.split(), *more.split()]) == 0
    assert seen == [
        {
            "model": Path("M"), "prompts": Path("p.jsonl"), "output": Path("o"), "chat": True,
            "temperature": [0.0, 1.5], "pad_penalty": [0.0, 3.0], "pad_penalty_factor": [1e-12],
            "max_new_tokens": [64, 128], "samples": 8, "top_p": 0.9,
        }
    ]  # fmt: skip
    assert (
        cli.main(["analyze-lengths", "M", "--prompts", "p", "--output", "o", "--seeds", "1"]) == 2
    )


def test_a_model_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    asked = write(tmp_path / "p.jsonl", {"prompt": "a"})
    with pytest.raises(UserError, match="missing does not exist"):
        analyze_lengths(tmp_path / "missing", asked, tmp_path / "out")
