"""Folders of the index cache: complete or absent, however many processes make them at once.

On a cluster the first process of each node may build into one shared folder, and containers give
them all the same process id. So each builds under a name of its own and the first rename wins;
what is there is never replaced, since others may have it memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import fsync_folder


def digest_of(value: Any) -> str:
    """Hex sha256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def default_cache_folder(first_prefix: Path | str) -> Path:
    """Beside the first prefix of the blend."""
    return Path(first_prefix).absolute().parent / "index_cache"


def make_cache_folder(folder: Path) -> None:
    """Create the cache folder.

    Raises:
        DataError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        raise DataError(
            f"Indices cannot be written to {folder}; set data.cache_folder to a folder that can."
        )


@contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends; an existing one is kept."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
        fsync_folder(temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():  # else another process was faster, with the same content
                raise
        fsync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
