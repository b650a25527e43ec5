"""``--weights``: an exported folder loaded in bf16 or FP8, and where that is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from megatron_dream.errors import ConfigError
from megatron_dream.evaluation import sampler
from tests.unit.hf.conftest import MakeFolder


@pytest.fixture(autouse=True)
def no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "load_tokenizer", lambda folder: SimpleNamespace())


def test_a_folder_is_loaded_in_the_precision_asked_for(make_folder: MakeFolder) -> None:
    folder = make_folder()
    assert sampler.load_model(folder).model.lm_head.weight.dtype == torch.float32
    bf16, fp8 = (sampler.load_model(folder, kind).model for kind in ("bf16", "fp8"))
    for model in (bf16, fp8):
        assert model.lm_head.weight.dtype == model.model.norm.weight.dtype == torch.bfloat16
    layers = [type(one.mlp.down_proj).__name__ for one in fp8.model.layers]
    assert layers == ["Fp8Linear"] * 2
    prompt = torch.tensor([[3, 4, 5]])
    made = fp8.diffusion_generate(prompt, max_new_tokens=6, cache="dual", block_length=3)
    assert made.shape == (1, 9)


def test_what_has_no_such_choice_is_refused(tmp_path: Path, make_folder: MakeFolder) -> None:
    with pytest.raises(ConfigError, match="--weights fp8 is for exported folders"):
        sampler.load_model(tmp_path, "fp8")
    with pytest.raises(ConfigError, match="choose bf16 or fp8"):
        sampler.load_model(make_folder(), "int4")
    old = SimpleNamespace()
    with pytest.raises(ConfigError, match="export the model again"):
        sampler._use_weights(old, "fp8", tmp_path)
