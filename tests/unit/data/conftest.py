"""A small tokenizer that gives every text back."""

import sysconfig
from pathlib import Path

import pytest

from megatron_dream.tokenizer.train import train_sentencepiece


@pytest.fixture(scope="session")
def sft_model(tmp_path_factory):
    """A SentencePiece model of 400 pieces, with bytes."""
    output = tmp_path_factory.mktemp("tokenizer") / "code.model"
    train_sentencepiece([Path(sysconfig.get_path("stdlib")) / "json"], 400, output)
    return output
