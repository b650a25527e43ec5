"""Sentences as vectors whose inner product says how alike they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ...device import current_device
from ...errors import MissingDependencyError, ModelFolderError

_TOKENS = 256  # all-MiniLM-L6-v2's own limit of a window, where its folder does not say
_LIMIT_FILE = "sentence_bert_config.json"


class Embedder(Protocol):
    """What near duplicates are looked for with.

    Attributes:
        size: of a vector.
    """

    size: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1, [N, size]."""

    def identity(self) -> dict[str, Any]:
        """Plain values that differ once the vectors do."""


class TransformerEmbedder:
    """An encoder of transformers, its states averaged over the tokens: what all-MiniLM-L6-v2 is.

    As in that model's card: mean over the positions that the attention mask has, then length 1. The card cuts
    longer texts off; here they are read window by window, and the mean is over the tokens of all windows.

    Args:
        folder: with weights, configuration and tokenizer; nothing is fetched.
        batch_size: windows at once.

    Raises:
        ModelFolderError: it cannot be loaded.
        MissingDependencyError: transformers is not installed.
    """

    def __init__(self, folder: Path | str, batch_size: int = 32) -> None:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError:
            raise MissingDependencyError(
                "Sentence embeddings need transformers; pip install transformers."
            ) from None
        self.folder, self.batch_size = Path(folder), batch_size
        check_encoder(self.folder)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model = AutoModel.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise ModelFolderError(
                f"{folder} cannot be loaded by transformers ({first}); fetch it again."
            ) from None
        if not self._tokenizer.is_fast:
            raise ModelFolderError(
                f"{folder} has no tokenizer.json; fetch it again with that file."
            )
        self._model = model.eval().to(current_device())
        self.size = int(model.config.hidden_size)
        self._limit = _limit_of(self.folder)

    def identity(self) -> dict[str, Any]:
        """See the protocol."""
        weights = sorted(self.folder.glob("*.safetensors")) + sorted(self.folder.glob("*.bin"))
        told = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in weights]
        return {"folder": str(self.folder.resolve()), "weights": told, "tokens": self._limit}

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See the protocol; texts of like lengths run together, each alone gives the same."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors = np.empty((len(texts), self.size), np.float32)
        for first in range(0, len(order), self.batch_size):
            numbers = order[first : first + self.batch_size]
            vectors[numbers] = self._embed([texts[number] for number in numbers])
        return vectors

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        windows = self._tokenizer(
            texts, truncation=True, max_length=self._limit, return_overflowing_tokens=True
        )
        text_of = torch.tensor(windows["overflow_to_sample_mapping"])
        sums_BH = torch.zeros(len(texts), self.size)
        for first in range(0, len(text_of), self.batch_size):
            part = slice(first, first + self.batch_size)
            batch = self._tokenizer.pad(
                {name: windows[name][part] for name in ("input_ids", "attention_mask")},
                return_tensors="pt",
            ).to(current_device())
            states_WSH = self._model(**batch).last_hidden_state.float()
            mask_WS1 = batch["attention_mask"][..., None].float()
            sums_BH.index_add_(0, text_of[part], (states_WSH * mask_WS1).sum(1).cpu())
        # of length 1 the sum is what the mean is
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(sums_BH).numpy()
        return vectors


def check_encoder(folder: Path) -> None:
    """Refuse early what cannot be an encoder.

    Raises:
        ModelFolderError: no configuration lies there.
    """
    if not (folder / "config.json").is_file():
        raise ModelFolderError(
            f"{folder} is no folder of a sentence encoder (it has no config.json); name that of "
            "all-MiniLM-L6-v2."
        )


def _limit_of(folder: Path) -> int:
    try:
        told = json.loads((folder / _LIMIT_FILE).read_text(encoding="utf-8"))["max_seq_length"]
        return int(told)
    except (OSError, ValueError, KeyError, TypeError):
        return _TOKENS
