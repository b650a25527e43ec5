"""Folders of the index cache: complete or absent, however many processes make them at once.

On a cluster the first process of each node may build into one shared folder, and containers give
them all the same process id. So each builds under a name of its own and the first rename wins;
what is there is never replaced, since others may have it memory-mapped.

A shared file system may show other nodes a finished folder late, or its files half. So a folder
holds the size and checksum of each of its files, and readers look again, for a while, until they
agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import fsync_folder, sha256_file

CHECKSUMS = "checksums.json"
INDEX_WAIT_SECONDS = 120.0  # longer than attribute caches of network file systems keep old answers
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds


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
    """Yield an empty folder that becomes ``path`` when the block ends; an existing one is kept.

    The files' sizes and checksums are added to it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sums = {f.name: [f.stat().st_size, sha256_file(f)] for f in sorted(temporary.iterdir())}
        (temporary / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
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


def folder_fault(folder: Path, *, with_content: bool = True) -> str | None:
    """What is wrong with an index folder, as the rest of a sentence; None where nothing is.

    Args:
        folder: as ``publish_folder`` made it.
        with_content: read all files and compare checksums; else their sizes only.
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        entries = [(folder / name, int(size), str(digest)) for name, (size, digest) in sums.items()]
    except FileNotFoundError:
        return f"has no {CHECKSUMS}" if folder.is_dir() else "is not there"
    except (OSError, ValueError, TypeError, AttributeError):
        return f"has a {CHECKSUMS} that cannot be read"
    for path, size, digest in entries:
        try:
            found = path.stat().st_size
            if found != size:
                return f"holds {found} of {size} bytes of {path.name}"
            if with_content and sha256_file(path) != digest:
                return f"holds a {path.name} whose checksum is wrong"
        except OSError:
            return f"lacks {path.name}"
    return None


def await_folder(
    find: Callable[[], Path], *, with_content: bool = True, wait_seconds: float = INDEX_WAIT_SECONDS
) -> Path:
    """An index folder once it is whole; looks again, ever more rarely, until then.

    Args:
        find: where it should be; asked again each time, since another one may come to serve.
        with_content: as for ``folder_fault``.
        wait_seconds: how long to look.

    Raises:
        DataError: it is still not whole then; says what is wrong with it.
    """
    end, pause = time.monotonic() + wait_seconds, _FIRST_PAUSE
    while True:
        folder = find()
        fault = folder_fault(folder, with_content=with_content)
        if fault is None:
            return folder
        left = end - time.monotonic()
        if left <= 0:
            raise DataError(
                f"The index {folder} is missing or incomplete: after {wait_seconds:g} s it {fault}; "
                f"set data.cache_folder to where every process sees it, or, if it is broken, remove "
                f"it and build it again (megatron-dream build-index)."
            )
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
        with contextlib.suppress(OSError):
            os.listdir(folder.parent)  # makes a network file system forget that it was not there
