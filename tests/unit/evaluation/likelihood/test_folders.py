"""The same score of an exported folder with states, of one that has only logits, and of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_dream.evaluation.likelihood import (
    MaskedModel,
    Request,
    chain_loglikelihoods,
    loglikelihoods,
)
from megatron_dream.evaluation.sampler import load_model
from megatron_dream.hf import import_hf
from tests.system.tiny_export import make_tiny_export

TEXTS = [
    ("def f(x):\n", "    return x\n"),
    ("import", " json"),
    ("# a", " b"),
    ("x = ", "[1, 2]\n"),
]


class OnlyLogits:
    """A public Dream folder's model: it is called, and asked for nothing else."""

    def __init__(self, model: Any) -> None:
        self._model, self.config = model, model.config

    def __call__(self, input_ids: torch.Tensor, attention_mask: Any, position_ids: Any) -> Any:
        assert attention_mask is None and position_ids is None
        return self._model(input_ids=input_ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_export(tmp_path_factory.mktemp("likelihood") / "export")


def test_folders_and_checkpoints_score_alike(folder: Path, tmp_path: Path) -> None:
    sampler = load_model(folder)
    tokenizer = sampler.tokenizer
    requests = [
        Request([tokenizer.bos_id, *tokenizer.encode(a)], tokenizer.encode(b), n)
        for n, (a, b) in enumerate(TEXTS)
    ]
    import_hf(folder, tmp_path / "checkpoint")
    checkpoint = load_model(tmp_path / "checkpoint")
    models = [sampler, sampler.model, OnlyLogits(sampler.model), checkpoint]
    masked = MaskedModel.of(sampler.model)
    assert masked.mask_token_id == tokenizer.mask_id and masked.eos_token_id == tokenizer.eos_id
    scores = [loglikelihoods(model, requests, 16, "count", 3) for model in models]
    chains = [chain_loglikelihoods(model, requests) for model in models]
    for one, chain in zip(scores[1:], chains[1:], strict=True):
        assert one == pytest.approx(scores[0], rel=1e-4)
        assert [c.loglikelihood for c in chain] == pytest.approx(
            [c.loglikelihood for c in chains[0]], rel=1e-4
        )
    assert all(score < -1 for score in scores[0])
