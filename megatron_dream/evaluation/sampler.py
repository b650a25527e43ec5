"""A model to sample from, wherever it lies: an exported folder or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checkpoint.metadata import FILE_NAME
from ..device import current_device
from ..errors import ConfigError, MissingDependencyError, ModelFolderError
from ..tokenizer.base import Tokenizer
from ..tokenizer.chat import ChatTemplate
from ..tokenizer.load import load_tokenizer


@dataclass
class Sampler:
    """A model that can be asked for logits, its tokenizer and what it may hold.

    A checkpoint's tokenizer may be its base model's, and what lies beside that renders chats otherwise
    than the sft stage did; an exported folder has a template of its own.
    """

    model: Any
    tokenizer: Tokenizer
    max_position: int
    is_checkpoint: bool = False

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """What chats are rendered with, read when first asked for."""
        return ChatTemplate.dream() if self.is_checkpoint else ChatTemplate.of(self.tokenizer)


def load_model(model: Path | str, weights: str | None = None) -> Sampler:
    """An exported folder through transformers, or a checkpoint through megatron-core.

    Args:
        model: where it lies.
        weights: ``bf16`` or ``fp8`` (sampling/fp8.py), of an exported folder; None: as they lie there.

    Raises:
        ModelFolderError: neither.
        ConfigError: its weights cannot be had so.
    """
    folder = Path(model)
    if (folder / "config.json").is_file() and not (folder / FILE_NAME).is_file():
        return _load_export(folder, weights)
    if weights is not None:
        raise ConfigError(
            f"--weights {weights} is for exported folders, and {folder} is none: export it first, or leave "
            "--weights out"
        )
    if not folder.exists():
        raise ModelFolderError(f"{folder} does not exist; name an exported folder or a checkpoint")
    from ..checkpoint.inference import load_for_sampling

    loaded = load_for_sampling(folder)
    if loaded.tokenizer is None:
        raise ModelFolderError(f"{folder}: its tokenizer is gone; export it with --tokenizer first")
    limit = loaded.metadata.model["max_position_embeddings"]
    return Sampler(loaded, loaded.tokenizer, limit, is_checkpoint=True)


def _load_export(folder: Path, weights: str | None) -> Sampler:
    try:
        from transformers import AutoModel
    except ImportError:
        raise MissingDependencyError("sampling an exported folder needs transformers") from None
    try:
        model = (
            AutoModel.from_pretrained(str(folder), trust_remote_code=True)
            .eval()
            .to(current_device())
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ModelFolderError(f"{folder} cannot be loaded by transformers ({first})") from None
    except (LookupError, AttributeError, TypeError, ImportError) as error:
        # of the folder's own code, such as public Dream's, which was written for transformers 4
        raise ModelFolderError(
            f"{folder}: its code does not run under this version of transformers ({error!r}); "
            "import-hf reads the weights without it: give the checkpoint"
        ) from None
    if weights is not None:
        _use_weights(model, weights, folder)
    return Sampler(model, load_tokenizer(folder), model.config.max_position_embeddings)


def _use_weights(model: Any, weights: str, folder: Path) -> None:
    if not hasattr(model, "use_weights"):
        raise ConfigError(
            f"--weights {weights}: the code in {folder} is of an older version, which has no such choice; "
            "export the model again"
        )
    try:
        model.use_weights(weights)
    except ValueError as error:
        raise ConfigError(f"--weights {weights}: {error}") from None
