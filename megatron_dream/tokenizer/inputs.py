"""Finding and opening text for tokenizer training: JSON Lines, compressed or not, and source files.

Preprocessing has readers of its own (``data/readers``), for more formats and for parts of files.
"""

from __future__ import annotations

import gzip
import importlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from megatron_dream.errors import DataError, MissingDependencyError

_JSONL_SUFFIXES = (".jsonl", ".json", ".ndjson")
_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class InputFile:
    """One file to read; ``is_jsonl`` says whether its lines are records or it is one document."""

    path: Path
    is_jsonl: bool
    size: int  # bytes on disk


def list_inputs(
    inputs: Sequence[Path | str], suffixes: Sequence[str] = (".py",)
) -> list[InputFile]:
    """Every file of ``inputs``, in their order; folders are walked in sorted order.

    Args:
        inputs: files (taken whatever their name) and folders.
        suffixes: which files of a folder count, such as ``.py`` or ``.jsonl.gz``.

    Raises:
        DataError: an input does not exist, or a folder holds no file with these suffixes.
    """
    if not inputs:
        raise DataError("No input was given; name at least one file or folder.")
    files: list[InputFile] = []
    for given in map(Path, inputs):
        if given.is_dir():
            found = [_input_file(path) for path in _walk(given, tuple(suffixes))]
            if not found:
                raise DataError(
                    f"{given}: the folder holds no file that ends in {' or '.join(suffixes)}; check "
                    "the path or ask for other suffixes."
                )
            files += found
        elif given.is_file():
            files.append(_input_file(given))
        else:
            raise DataError(f"{given}: there is no such file or folder; check the path.")
    return files


@contextmanager
def open_input(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file, decompressed by its ending.

    Yields:
        The content, and the file on disk, whose ``tell()`` is the progress in bytes.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(open(path, "rb"))
        if path.suffix == ".gz":
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=raw))
            yield cast(IO[bytes], unpacked), raw
        elif path.suffix == ".zst":
            zstandard = import_zstandard(path)
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            yield stack.enter_context(io.BufferedReader(reader, 1 << 20)), raw
        else:
            yield raw, raw


def import_zstandard(path: Path) -> Any:
    """The optional zstandard package."""
    try:
        return importlib.import_module("zstandard")
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading .zst needs the zstandard package; run `pip install zstandard`."
        ) from error


def _input_file(path: Path) -> InputFile:
    inner = path.with_suffix("") if path.suffix in _COMPRESSED else path
    return InputFile(path, inner.suffix in _JSONL_SUFFIXES, path.stat().st_size)


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files below ``folder`` by suffix, each folder's own files first, links to folders not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if name.endswith(suffixes) and path.is_file():
                yield path
