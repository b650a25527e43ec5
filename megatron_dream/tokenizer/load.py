"""From a path to a tokenizer."""

from __future__ import annotations

from pathlib import Path

from megatron_dream.errors import TokenizerError
from megatron_dream.tokenizer.base import Tokenizer
from megatron_dream.tokenizer.huggingface import HuggingFaceTokenizer
from megatron_dream.tokenizer.sentencepiece import SentencePieceTokenizer
from megatron_dream.tokenizer.slow_files import has_slow_files, tokenizer_json_from_slow


def has_tokenizer(folder: Path) -> bool:
    """Whether ``folder`` has files that ``load_tokenizer`` would look at."""
    is_there = (folder / "tokenizer.json").is_file() or has_slow_files(folder)
    return is_there or any(folder.glob("*.model"))


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Load a SentencePiece ``.model`` file, a folder with tokenizer.json, or one with a ``.model``.

    tokenizer.json wins where a folder has both: an exported folder's two files have the same ids.
    Published Dream folders have neither, but vocab.json and merges.txt.

    Raises:
        TokenizerError: there is none, it cannot be read, or its ids are in Dream's way.
    """
    path = Path(path)
    if path.is_file():
        if path.name == "tokenizer.json":
            return HuggingFaceTokenizer.from_folder(path.parent)
        return SentencePieceTokenizer.from_file(path)
    if not path.is_dir():
        raise TokenizerError(
            f"{path}: there is no such tokenizer; give a SentencePiece .model file or a folder with "
            "tokenizer.json."
        )
    if (path / "tokenizer.json").is_file():
        return HuggingFaceTokenizer.from_folder(path)
    models = sorted(path.glob("*.model"))
    if not models and has_slow_files(path):
        return HuggingFaceTokenizer(tokenizer_json_from_slow(path), str(path))
    if len(models) != 1:
        names = ", ".join(model.name for model in models) or "neither"
        raise TokenizerError(
            f"{path}: the folder must have tokenizer.json or one .model file, but has {names}; name "
            "the file itself."
        )
    return SentencePieceTokenizer.from_file(models[0])
