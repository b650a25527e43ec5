"""The model card repeats what a run notes of its data, code, recipe and metrics."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from megatron_dream.checkpoint.metadata import CheckpointMetadata
from megatron_dream.config.schema import DataConfig, ModelConfig, RunConfig, SourceConfig
from megatron_dream.hf.model_card import model_card
from megatron_dream.training import provenance as module
from megatron_dream.training.metrics import StepReport
from megatron_dream.training.provenance import (
    metrics_of,
    origin_of,
    provenance,
    resumed,
    source_commit,
)


def card(**trained: object) -> str:
    metadata = CheckpointMetadata(model={}, trained=trained, step=7)
    return model_card(
        metadata, ModelConfig(), {}, name="m", dtype="fp32", fingerprint=None, mask_token_id=None
    )


def source(folder: Path, name: str, sidecar: dict[str, Any] | None = None) -> SourceConfig:
    if sidecar is not None:
        (folder / f"{name}.json").write_text(json.dumps(sidecar))
    return SourceConfig(prefix=str(folder / name), weight=0.5)


def rows_of(text: str, title: str) -> list[list[str]]:
    """Cells of the table under a heading."""
    _, _, rest = text.partition(f"### {title}\n\n")
    table = rest.partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


CODE = {
    "documents": 3000,
    "tokens": 1_000_000,
    "licences": {"MIT": [2000, 750_000], "Apache-2.0": [1000, 250_000]},
    "decontaminated_against": ["HumanEval"],
}


def test_it_says_whether_the_data_was_decontaminated(tmp_path: Path) -> None:
    code, web = source(tmp_path, "code", CODE), source(tmp_path, "web")  # files from elsewhere
    both = provenance(RunConfig(data=DataConfig(train=[code, web])))
    one = provenance(RunConfig(data=DataConfig(train=[code])))
    assert "| training data | not decontaminated (web) |" in card(**both)
    assert "| training data | decontaminated against HumanEval |" in card(**one)
    assert str(tmp_path) not in card(**both)


def test_data_with_licences_comes_from_the_token_files(tmp_path: Path) -> None:
    sources = [source(tmp_path, "code", CODE), source(tmp_path, "web")]
    text = card(**provenance(RunConfig(data=DataConfig(train=sources))))
    header, _, code, web = rows_of(text, "Data")
    assert header[:4] == ["source", "weight", "documents", "tokens"]
    licences = "MIT 75.0%, Apache-2.0 25.0%"
    assert code == ["code", "0.5", "3,000", "1,000,000", licences, "HumanEval"]
    assert web == ["web", "0.5", "unknown", "unknown", "unknown", "nothing"]


def test_many_licences_are_summed_up(tmp_path: Path) -> None:
    many = {f"L{n:02d}": [1, 100 - n] for n in range(20)}
    one = source(tmp_path, "code", {**CODE, "licences": many})
    cell = rows_of(card(**provenance(RunConfig(data=DataConfig(train=[one])))), "Data")[2][4]
    shares = [float(part.split()[-1][:-1]) for part in cell.split(", ")]
    assert "8 others" in cell and sum(shares) == pytest.approx(100, abs=1)


def test_names_of_a_corpus_cannot_break_the_table(tmp_path: Path) -> None:
    odd = {**CODE, "licences": {"a|b\n<script>": [1, 10]}}
    one = source(tmp_path, "code", odd)
    table = rows_of(card(**provenance(RunConfig(data=DataConfig(train=[one])))), "Data")
    assert len(table) == 3 and table[2][4] == r"a\|b &lt;script> 100.0%"


def report(loss: float) -> StepReport:
    return StepReport(loss, 5, 10, 12, 2, 14, 1.25, 0.5, 2.75, [], [])


def test_metrics_are_those_of_the_last_step_and_validation() -> None:
    metrics = {
        "training": metrics_of(7, report(float("nan"))),
        "validation": metrics_of(5, report(1.5)),
    }
    json.dumps(metrics, allow_nan=False)
    _, _, training, validation = rows_of(card(metrics=metrics), "Metrics")
    assert training == ["training", "7", "not finite", "1.2500", "0.5000", "2.7500"]
    assert validation == ["validation", "5", "1.5000", "1.2500", "0.5000", "2.7500"]


def test_the_recipe_is_there_without_paths(tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(train=[source(tmp_path, "code", CODE)]))
    config.optimizer.lr, config.diffusion.cart_p = 3e-5, 0.3
    text = card(recipe=dataclasses.asdict(config), **provenance(config))
    recipe = dict(rows_of(text, "Recipe")[2:])
    assert recipe["optimizer.lr"] == "3e-05" and recipe["diffusion.cart_p"] == "0.3"
    assert recipe["data.sequence_length"] == "2048" and "data.train" not in recipe
    assert str(tmp_path) not in text


def test_commit_of_the_code_and_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = source_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit)
    monkeypatch.setattr(module, "source_commit", lambda: "b" * 40)
    here = provenance(RunConfig())
    assert here["commits"] == ["b" * 40]
    later = resumed({"commits": ["a" * 40], "initial weights": {"step": 2}}, here)
    assert later["commits"] == ["a" * 40, "b" * 40] and later["initial weights"] == {"step": 2}
    assert resumed(later, here)["commits"] == later["commits"]
    assert f"| commits | {'a' * 40}, {'b' * 40} |" in card(**later)


def test_code_outside_a_clone_has_no_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Installed into an environment inside somebody else's repository, it must not take their commit."""
    monkeypatch.setattr(module, "_git", lambda folder, *arguments: str(tmp_path))
    assert source_commit() is None


def test_what_the_weights_came_from_is_kept_over_two_runs() -> None:
    imported = CheckpointMetadata(model={}, objective="ar", trained={"imported_from": "Qwen2.5"})
    first = CheckpointMetadata(model={}, step=9, trained={"initial weights": origin_of(imported)})
    assert origin_of(first) == {"objective": "diffusion", "step": 9, "imported_from": "Qwen2.5"}
    line = "| initial weights | step 9 of diffusion weights, imported from Qwen2.5 |"
    assert line in card(**{"initial weights": origin_of(first)})


def test_a_checkpoint_that_says_nothing_gives_a_card_without_empty_tables() -> None:
    text = card()
    assert "### " not in text and "| objective | diffusion |" in text and "| step | 7 |" in text


def test_the_sampling_example_runs(
    remote_code: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code, on a tiny model and a tokenizer that counts characters."""
    example = re.search(r"```python\n(.*?)```", card(), re.DOTALL)
    assert example is not None
    config = remote_code.DreamConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, mask_token_id=51, pad_token_id=50,
    )  # fmt: skip
    model = remote_code.DreamModel(config)
    asked: list[dict[str, Any]] = []

    class Tokenizer:
        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [ord(c) % 50 for c in text]}

        def convert_tokens_to_ids(self, name: str) -> int:
            return 52

        def decode(self, ids: list[int]) -> str:
            return "return" + "x" * len(ids) + "<|endoftext|>more"

    import transformers

    def load(found: Any) -> Any:
        return lambda folder, **options: asked.append(options) or found

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", load(model))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", load(Tokenizer()))
    with torch.no_grad():
        exec(compile(ast.parse(example[1]), "card", "exec"), {})
    assert capsys.readouterr().out == "return" + "x" * 64 + "\n"
    assert asked == [{"trust_remote_code": True}] * 2
