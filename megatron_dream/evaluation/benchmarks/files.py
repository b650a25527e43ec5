"""Problem files from disk: JSON lines, plain or gzipped, a JSON list, or Parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError, MissingDependencyError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


def find_file(folder: Path, names: Sequence[str], benchmark: str) -> Path:
    """The first of ``names``, with any of the known suffixes, in ``folder`` or one folder below.

    Raises:
        DataError: none is there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the folder with the problem files to --data.")
    for name in names:
        for suffix in SUFFIXES:
            for path in (folder / f"{name}{suffix}", *sorted(folder.glob(f"*/{name}{suffix}"))):
                if path.is_file():
                    return path
    wanted = " or ".join(f"{name}.jsonl" for name in names)
    raise DataError(
        f"{folder}: the problems of {benchmark} are not there; put {wanted} into it "
        f"({', '.join(SUFFIXES)} are read; docs/evaluation.md says where to get them)."
    )


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, in its order.

    Raises:
        DataError: it is damaged, or holds something else than objects.
        MissingDependencyError: Parquet without pyarrow.
    """
    read = _read_parquet if path.suffix == ".parquet" else _read_json
    for number, record in enumerate(read(path), 1):
        if not isinstance(record, dict):
            raise DataError(f"{path}, record {number}: no object; give the benchmark's own file.")
        yield record


def _read_json(path: Path) -> Iterator[Any]:
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig") as stream:
            if path.suffix == ".json":
                content = json.load(stream)
                yield from content.values() if isinstance(content, dict) else content
                return
            for number, line in enumerate(stream, 1):  # noqa: B007  told in the error
                if line.strip():
                    yield json.loads(line)
    except (ValueError, TypeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}, after line {number}: not readable ({error}); fetch the file again."
        ) from None


def _read_parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            f"{path} needs pyarrow; install megatron-dream[data]"
        ) from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no Parquet ({error}); fetch the file again.") from None
    yield from table.to_pylist()
