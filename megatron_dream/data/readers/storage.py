"""Opening files: local ones directly, URLs through fsspec. The one place that imports fsspec."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import IO, Any, cast

from ...errors import DataError, MissingDependencyError

_STAMPS = ("ETag", "etag", "md5", "checksum", "mtime", "last_modified", "LastModified", "created")


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def import_package(name: str, purpose: str) -> Any:
    """An optional package.

    Raises:
        MissingDependencyError: it is not installed; says what needs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs the {package} package; run `pip install {package}`."
        ) from error


def file_system(url: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path inside it.

    Raises:
        MissingDependencyError: fsspec, or the package for this protocol, is not installed.
        DataError: nobody knows the protocol.
    """
    fsspec = import_package("fsspec", f"{url}: reading from a URL")
    try:
        system, path = fsspec.core.url_to_fs(url, **(options or {}))
    except ImportError as error:
        raise MissingDependencyError(
            f"{url}: this protocol needs another package: {_sentence(error)}"
        ) from error
    except ValueError as error:
        raise DataError(f"{url}: {_sentence(error)}") from error
    return system, path


def open_binary(path: str) -> IO[bytes]:
    """A file opened for reading, seekable; a URL is read by ranges.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_remote(path):
        return open(path, "rb")
    system, inner = file_system(path)
    return cast(IO[bytes], system.open(inner, "rb"))


def local_stamp(status: os.stat_result) -> str:
    """What changes when a local file is written again."""
    return f"mtime {status.st_mtime_ns}"


def remote_stamp(details: Mapping[str, Any]) -> str:
    """What changes when a remote file is written again, as far as its store tells."""
    for name in _STAMPS:
        if value := details.get(name):
            return f"{name} {value}"
    return ""


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith(".") else f"{text}."
