"""Models that answer: any causal model and an exported folder, alike in what they give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_dream.errors import CheckpointError, ModelFolderError
from megatron_dream.rl.curation.candidates import (
    CandidateModel,
    CandidateOptions,
    CausalCandidates,
    DiffusionCandidates,
    load_candidates,
)
from tests.system.tiny_export import make_tiny_export

OPTIONS = CandidateOptions(temperature=1.0, max_new_tokens=8)
PROMPTS = [[{"role": "user", "content": text}] for text in ("import json", "def f(x): return x")]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_export(tmp_path_factory.mktemp("tiny") / "export")


@pytest.fixture(scope="module")
def causal(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of random weights with the exported folder's tokenizer."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("causal")
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=416,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=128,
                eos_token_id=tokenizer.eos_token_id,
            )
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["export", "causal"])
def model(request: pytest.FixtureRequest) -> CandidateModel:
    return load_candidates(request.getfixturevalue(request.param), OPTIONS)


def test_each_prompt_has_its_answers(model: CandidateModel) -> None:
    answers = model.generate(PROMPTS, 3, seed=1)
    assert [len(texts) for texts in answers] == [3, 3]
    assert len(set(answers[0])) > 1  # drawn, not the most probable


def test_the_seed_decides_and_the_global_generator_does_not(model: CandidateModel) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = model.generate(PROMPTS, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert model.generate(PROMPTS, 2, seed=1) == first != model.generate(PROMPTS, 2, seed=2)


def test_a_prompt_that_is_there_twice_has_answers_of_its_own(model: CandidateModel) -> None:
    first, second = model.generate([PROMPTS[0], PROMPTS[0]], 3, seed=1)
    assert first != second


def test_a_prompt_that_is_too_long_has_none(model: CandidateModel) -> None:
    long = [{"role": "user", "content": "x = 1\n" * 2000}]
    answers = model.generate([PROMPTS[0], long, PROMPTS[1]], 2, seed=1)
    assert [len(texts) for texts in answers] == [2, 0, 2]
    assert model.generate([long], 2, seed=1) == [[]]


def test_the_kind_of_a_folder_is_told_from_its_configuration(export: Path, causal: Path) -> None:
    assert isinstance(load_candidates(export, OPTIONS), DiffusionCandidates)
    assert isinstance(load_candidates(causal, OPTIONS), CausalCandidates)


def test_folders_that_are_no_models_are_refused(tmp_path: Path, causal: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_candidates(tmp_path, OPTIONS)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ModelFolderError, match="no JSON"):
        load_candidates(tmp_path, OPTIONS)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        load_candidates(tmp_path, OPTIONS)
