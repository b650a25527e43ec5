"""The list of documents to drop, by id: what a pass over duplicates ends in and a filter reads.

FOLDER/
ids.bin     128-bit hashes of ids, sorted as bytes, each once
list.json   parameters of the pass, counts, inputs, checksum of ids.bin
"""

from __future__ import annotations

import json
import mmap
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files import atomic_folder, sha256_file, write_json
from ..document import Document
from .exact import KEY_BYTES, hash_of

_IDS, _DESCRIPTION = "ids.bin", "list.json"
_FORMAT = "megatron-dream drop list 1"


class DropList:
    """Documents to drop. Memory-mapped: processes of a machine share its pages.

    Attributes:
        folder: where it lies.
        description: content of ``list.json``.
    """

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder, self.description = folder, description
        self._count: int = description["documents"]
        self._ids: bytes | mmap.mmap = b""
        if self._count:
            with open(folder / _IDS, "rb") as stream:
                self._ids = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, document: object) -> bool:
        """Whether a document, or an id, is on the list; O(log n)."""
        if isinstance(document, Document):
            return self._has(hash_of(document.id))
        return isinstance(document, str) and self._has(hash_of(document))

    def _has(self, digest: bytes) -> bool:
        index = bisect_left(range(self._count), digest, key=self._at)
        return index < self._count and self._at(index) == digest

    def _at(self, index: int) -> bytes:
        return self._ids[index * KEY_BYTES : (index + 1) * KEY_BYTES]


def write_drop_list(folder: Path | str, ids: bytes, description: Mapping[str, Any]) -> DropList:
    """Write a list whole or not at all, in the place of one that lies there.

    Args:
        folder: its name; the folder above is made.
        ids: sorted 128-bit hashes of ids, one after the other.
        description: parameters, counts and inputs, to be kept beside it.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        (temporary / _IDS).write_bytes(ids)
        own = {"format": _FORMAT, "documents": len(ids) // KEY_BYTES}
        checksum = {"sha256": sha256_file(temporary / _IDS)}
        write_json(temporary / _DESCRIPTION, {**own, **description, **checksum})
    return load_drop_list(folder)


def load_drop_list(folder: Path | str) -> DropList:
    """Open a list.

    Raises:
        DataError: the folder is no list, or was altered.
    """
    folder = Path(folder)
    description = _description(folder)
    ids = folder / _IDS
    is_whole = ids.is_file() and ids.stat().st_size == KEY_BYTES * description["documents"]
    if not is_whole or sha256_file(ids) != description["sha256"]:
        raise DataError(
            f"{ids} is missing or was altered; make the list anew with the pass over duplicates."
        )
    return DropList(folder, description)


def _description(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        description = None
    is_right = isinstance(description, dict) and description.get("format") == _FORMAT
    if not is_right or not isinstance(description.get("documents"), int):
        raise DataError(
            f"{folder} is no list of duplicates (it needs {_DESCRIPTION} and {_IDS}); give the folder that "
            f"the pass over duplicates wrote."
        )
    checked: dict[str, Any] = description
    return checked
