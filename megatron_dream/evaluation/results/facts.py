"""Values out of a result's JSON, such as the commit that it was measured on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError

SHORT = 7  # letters of a commit that are shown


def read_result(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; measure it again or restore it.") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: no readable JSON ({error}); measure it again or restore it."
        ) from None


def fact(folder: Path, source: str, where: str) -> str:
    """What ``FILE.json#KEY.KEY`` names; ``*`` stands for every key or entry there.

    Different values are joined in the order in which they come; hashes of commits are cut short.

    Args:
        folder: of the file.
        source: file and keys.
        where: begins the sentence of an error.

    Raises:
        ConfigError: there is nothing under that key.
        DataError: the file is missing or damaged.
    """
    name, _, keys = source.partition("#")
    values = [read_result(folder / name)]
    for key in keys.split("."):
        values = [found for value in values for found in _under(value, key)]
    texts = [short_commit(value) for value in values if isinstance(value, str) and value]
    if not texts:
        raise ConfigError(f"{where}: {name} has no text under {keys}; correct the key.")
    return ", ".join(dict.fromkeys(texts))


def short_commit(text: str) -> str:
    """A whole hash cut to seven letters, its mark of changes kept; other text as it is."""
    digest, mark, rest = text.partition("+")
    is_hash = len(digest) == 40 and set(digest) <= set("0123456789abcdef")
    return digest[:SHORT] + mark + rest if is_hash else text


def _under(value: Any, key: str) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values()) if key == "*" else [value[key]] if key in value else []
    return list(value) if isinstance(value, list) and key == "*" else []
