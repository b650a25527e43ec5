"""Folders that have vocab.json and merges.txt in place of tokenizer.json, as published Dream models do.

Their own tokenizer code is Qwen2's under another name, so that the pipeline is known without running it:
NFC, Qwen2's split, bytes as characters, merges by rank (transformers, models/qwen2/tokenization_qwen2.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_dream.errors import TokenizerError
from megatron_dream.tokenizer.special import AddedToken

_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def has_slow_files(folder: Path) -> bool:
    """Whether ``folder`` has a vocabulary and merges in files of their own."""
    return (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()


def tokenizer_json_from_slow(folder: Path) -> dict[str, Any]:
    """The tokenizer.json that says what a Qwen2-type folder's vocab.json and merges.txt say.

    Raises:
        TokenizerError: a file is missing or malformed, or the tokenizer is of another kind.
    """
    config = _read_object(folder / "tokenizer_config.json")
    kind = config.get("tokenizer_class")
    if kind not in _CLASSES:
        raise TokenizerError(
            f"{folder}: tokenizer_class is {kind!r}, and only Qwen2's kind is known without "
            "tokenizer.json; save the folder's tokenizer as a fast one first."
        )
    vocab = _read_object(folder / "vocab.json")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.as_json() for token in _added_tokens(folder, config)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": QWEN2_PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", **_byte_level(False)},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **_byte_level(True)},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(folder / "merges.txt"),
        },
    }


def _byte_level(use_regex: bool) -> dict[str, bool]:
    return {"add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _added_tokens(folder: Path, config: dict[str, Any]) -> list[AddedToken]:
    """From tokenizer_config.json, else from added_tokens.json, which knows no flags."""
    try:
        if entries := config.get("added_tokens_decoder"):
            found = [
                AddedToken(int(number), str(entry["content"]), bool(entry.get("special", False)))
                for number, entry in entries.items()
            ]
        else:
            path = folder / "added_tokens.json"
            entries = _read_object(path) if path.is_file() else {}
            found = [AddedToken(int(number), str(text)) for text, number in entries.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(
            f"{folder}: the added tokens are malformed ({error!r}); get tokenizer_config.json again."
        ) from error
    return sorted(found, key=lambda token: token.id)


def _merges(path: Path) -> list[list[str]]:
    """Pairs in order; the first line may tell a version."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read ({error}); copy it again.") from error
    first = 1 if lines[0].startswith("#version") else 0
    merges = [line.split(" ") for line in lines[first:] if line]
    if any(len(pair) != 2 for pair in merges):
        raise TokenizerError(f"{path}: a line is no pair of pieces; copy it again.")
    return merges


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot be read ({error}); copy it again.") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: this is no JSON object; copy it again.")
    return value
