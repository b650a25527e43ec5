"""The Software Heritage bucket: gzip objects named by id, fetched, checked and decoded."""

from __future__ import annotations

import codecs
import hashlib
import re
import time
import zlib
from collections.abc import Mapping
from typing import Any

from ...errors import DataError
from .blob_ids import BlobReference
from .storage import file_system

SWH_BUCKET = "s3://softwareheritage/content"
_SHA1 = re.compile(r"[0-9a-f]{40}")


class LeftOutError(Exception):
    """A blob gives no text.

    Args:
        kind: ``missing``, ``undecodable``, ``damaged`` or ``too_large``.
        reason: in words.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class BlobStore:
    """Reads objects of a bucket; may be used from several threads.

    Args:
        bucket: URL or folder above the objects.
        max_bytes: of a blob, unpacked.
        attempts: how often a failing connection is tried.
        wait_seconds: before the second attempt; doubles each time.
        storage_options: for fsspec; S3 is read without credentials unless they say otherwise.
    """

    def __init__(
        self,
        bucket: str,
        *,
        max_bytes: int,
        attempts: int = 5,
        wait_seconds: float = 1.0,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        options = dict(storage_options or ({"anon": True} if bucket.startswith("s3://") else {}))
        self._bucket = bucket.rstrip("/")
        self._system, self._folder = file_system(self._bucket, options)
        self._max_bytes, self._attempts, self._wait = max_bytes, attempts, wait_seconds

    def text(self, blob: BlobReference) -> str:
        """Content of one blob.

        Raises:
            LeftOutError: there is none, or it is no text.
            DataError: the store does not answer.
        """
        data = _unpacked(self._packed(blob.blob_id), self._max_bytes)
        _check_identity(blob.blob_id, data)
        return decode(data, blob.encoding)

    def _packed(self, blob_id: str) -> bytes:
        path = f"{self._folder.rstrip('/')}/{blob_id}"
        for attempt in range(self._attempts):
            try:
                return bytes(self._system.cat_file(path))
            except FileNotFoundError:
                raise LeftOutError("missing", "not in the bucket") from None
            except Exception as error:  # whatever a store's client raises
                last = error
            if attempt + 1 < self._attempts:
                time.sleep(self._wait * 2**attempt)
        raise DataError(
            f"{self._bucket}/{blob_id} could not be fetched in {self._attempts} attempts: {last}; run the "
            "same command again to go on."
        ) from last


def decode(data: bytes, encoding: str) -> str:
    """Text in an encoding as a list names it; a byte order mark is dropped.

    Raises:
        LeftOutError: the bytes are not in it, or nobody knows it.
    """
    try:
        text = data.decode(codecs.lookup(encoding).name)
        text.encode("utf-8")
    except LookupError:
        raise LeftOutError("undecodable", f"unknown encoding {encoding[:40]!r}") from None
    except (UnicodeError, ValueError) as error:
        reason = getattr(error, "reason", "") or str(error)
        raise LeftOutError("undecodable", f"no {encoding[:40]}: {reason}") from None
    return text.removeprefix("\ufeff")


def _unpacked(packed: bytes, limit: int) -> bytes:
    unpack = zlib.decompressobj(wbits=31)
    try:
        data = unpack.decompress(packed, limit + 1)
    except zlib.error as error:
        raise LeftOutError("damaged", f"no gzip object ({error})") from None
    if len(data) > limit:
        raise LeftOutError("too_large", f"over {limit:,} bytes")
    if not unpack.eof:
        raise LeftOutError("damaged", "the gzip object is cut off")
    return data


def _check_identity(blob_id: str, data: bytes) -> None:
    """An id of 40 hex digits is the SHA-1 of the content: git's, with its header, or the plain one."""
    if not _SHA1.fullmatch(blob_id):
        return
    header = b"blob %d\0" % len(data)
    if blob_id not in (_sha1(header + data), _sha1(data)):
        raise LeftOutError("damaged", "the content is another: its SHA-1 is not the id")


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
