"""A model to be measured: a checkpoint, an exported folder, a public Dream, or one from left to right."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checkpoint.metadata import FILE_NAME
from ...errors import ConfigError, ModelFolderError
from ..benchmarks.base import Task
from .flops import Shape
from .settings import Settings

_EDGE = 1 << 20  # bytes of a weight file's beginning and end that its name in run.json is made from


@dataclass(frozen=True)
class Row:
    """A task's prompt as a model takes it.

    Attributes:
        ids: before the answer.
        suffix: after it (infilling).
        num_masks: of a gap that keeps its length; 0: tokens are appended, or the gap grows.
    """

    ids: tuple[int, ...]
    suffix: tuple[int, ...] = ()
    num_masks: int = 0

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.ids) + self.num_masks + len(self.suffix)


@dataclass(frozen=True)
class Made:
    """One answer.

    Attributes:
        text: not cut at a task's stops.
        num_tokens: before the first end token.
        num_forward: forward passes in which the answer got a token.
        num_columns: columns that passes ran for it; passes that ran several rows are shared out.
        flops: of these passes.
        opened: step at which each token got what it ends with.
    """

    text: str
    num_tokens: int
    num_forward: int
    num_columns: float
    flops: float
    opened: tuple[int, ...]


class Model(ABC):
    """Something that answers.

    Attributes:
        shape: for FLOPs.
        kind: ``diffusion`` or ``autoregressive``.
    """

    shape: Shape
    kind: str

    @abstractmethod
    def encode(self, task: Task, settings: Settings) -> Row:
        """The prompt's tokens.

        Raises:
            DataError: it does not fit the model with the answer.
        """

    @abstractmethod
    def answer(
        self, rows: Sequence[Row], seeds: Sequence[int], tasks: Sequence[Task], settings: Settings
    ) -> list[Made]:
        """One answer a row, each drawn from its own seed."""  # fmt: skip


def is_autoregressive(folder: Path) -> bool:
    """Whether a Hugging Face folder holds a model that goes from left to right."""
    config = _config(folder)
    if config.get("model_type") == "Dream" or "mask_token_id" in config:
        return False
    return any(name.endswith("ForCausalLM") for name in config.get("architectures") or ())


def open_model(path: Path, weights: str | None = None) -> Model:
    """Load a model on this process's device.

    Raises:
        ModelFolderError: no model is there, or of no kind that can be measured.
        CheckpointError: a checkpoint is damaged, or was never adapted to diffusion.
        ConfigError: its weights cannot be had as ``weights`` says.
    """
    is_folder = (path / "config.json").is_file() and not (path / FILE_NAME).is_file()
    if is_folder and is_autoregressive(path):
        if weights is not None:
            raise ConfigError(
                f"--weights {weights} is for folders that export-hf wrote; leave it out."
            )
        from .autoregressive import AutoregressiveModel

        return AutoregressiveModel.load(path)
    from .diffusion import DiffusionModel

    return DiffusionModel.load(path, weights)


def fingerprint(path: Path) -> str:
    """A name for a model's content, from its description and the edges of its weight files.

    So a resumed evaluation notices other weights under the same path; reading 15 GB would take a minute.
    """
    from ...checkpoint.metadata import resolve_checkpoint

    is_folder = (path / "config.json").is_file() and not (path / FILE_NAME).is_file()
    folder = path if is_folder else resolve_checkpoint(path)
    digest = hashlib.sha256()
    kinds = (".safetensors", ".bin", ".distcp", ".json")
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix in kinds):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)} {size}\n".encode())
        with open(file, "rb") as stream:
            digest.update(stream.read(_EDGE))
            stream.seek(max(0, size - _EDGE))
            digest.update(stream.read(_EDGE))
    return digest.hexdigest()[:16]


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{folder}/config.json is not readable ({error}).") from None
    if not isinstance(config, dict):
        raise ModelFolderError(f"{folder}/config.json holds no object; check the folder.")
    return config
