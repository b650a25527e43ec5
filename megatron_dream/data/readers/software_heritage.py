"""Blob ids to texts: The Stack v2 and Stack-Edu publish ids, their contents are Software Heritage's.

Ids are cut into parts of a fixed number, in input order. A part is fetched by threads, written in the
order of its ids and exists once its record does: killed anywhere, the same command goes on with the
part that was under way. What is written is the same whatever the threads and interruptions.

    OUTPUT/00000-000000.jsonl.zst           texts of the first part of the first list
    OUTPUT.fetch/00000-000000.json          its record
    OUTPUT.fetch/left_out.jsonl             ids without a text: missing, undecodable, damaged, ...
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from ...files import atomic_write, write_json
from ..document import Reject
from .blob_ids import BlobReference, blob_references
from .blob_parts import FetchReport, OutputFormat, PartFiles, PartWriter
from .blob_store import SWH_BUCKET, BlobStore, LeftOutError
from .files import InputFile
from .limits import MEBIBYTE, Limits
from .listing import list_inputs

LIST_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".arrow")
_AHEAD = 4  # fetched or waiting for each thread, beyond what is being written
Report = Callable[[FetchReport], None]


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch.

    Attributes:
        bucket: URL or folder above the objects.
        threads: requests under way at once.
        part_ids: ids of one part: what a kill may cost.
        output_format: of the texts.
        max_bytes: of one file; larger ones are left out.
        attempts: how often a failing request is tried.
        wait_seconds: before the second attempt.
        storage_options: for fsspec.
    """

    bucket: str = SWH_BUCKET
    threads: int = 32
    part_ids: int = 10_000
    output_format: OutputFormat = "jsonl.zst"
    max_bytes: int = 64 * MEBIBYTE
    attempts: int = 5
    wait_seconds: float = 1.0
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("threads", "part_ids", "max_bytes", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if self.output_format not in ("jsonl.zst", "parquet"):
            raise ConfigError(
                f"The format {self.output_format!r} is none; write jsonl.zst or parquet."
            )


def fetch_contents(
    inputs: Sequence[str | Path],
    output: Path | str,
    options: FetchOptions | None = None,
    report: Report | None = None,
) -> FetchReport:
    """Fetch the texts of all ids that are not there yet.

    Args:
        inputs: lists of ids; see ``list_inputs``.
        output: folder of the texts.
        options: how.
        report: called with all counts so far, now and then.

    Returns:
        The counts of all parts, earlier runs' included.

    Raises:
        DataError: a list is no list, ``output`` was begun with others, or the store does not answer.
    """
    options = options or FetchOptions()
    files = list_inputs(inputs, LIST_SUFFIXES)
    output = Path(output)
    state = output.with_name(f"{output.name}.fetch")
    _open_manifest(state, files, options)
    output.mkdir(parents=True, exist_ok=True)
    for half_written in [*output.glob(".*.tmp"), *state.glob(".*.tmp")]:  # by a killed run
        half_written.unlink()
    store = BlobStore(
        options.bucket,
        max_bytes=options.max_bytes,
        attempts=options.attempts,
        wait_seconds=options.wait_seconds,
        storage_options=options.storage_options,
    )
    total, parts = FetchReport(), []
    with ThreadPoolExecutor(options.threads) as pool:
        try:
            for name, file, references in _parts(files, options.part_ids):
                part = PartFiles(output, state, name, options.output_format)
                fetched = part.finished()
                if fetched is None:
                    fetched = _fetch_part(part, file, references, store, pool, options.threads)
                total.add(fetched)
                parts.append(part)
                if report is not None:
                    report(total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    _gather_left_out(state, parts)
    return total


def _open_manifest(state: Path, files: Sequence[InputFile], options: FetchOptions) -> None:
    """Begin, or make sure that what lies there is of the same lists."""
    identity = {
        "inputs": [file.identity() for file in files],
        "part_ids": options.part_ids,
        "output_format": options.output_format,
        "max_bytes": options.max_bytes,
    }
    path = state / "manifest.json"
    if not path.exists():
        state.mkdir(parents=True, exist_ok=True)
        write_json(path, identity)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in identity if found.get(name) != identity[name]]
    if changed:
        raise DataError(
            f"{state} was begun with other {' and '.join(changed)}; restore them to go on, or name another "
            "output."
        )


def _parts(
    files: Sequence[InputFile], size: int
) -> Iterator[tuple[str, InputFile, list[BlobReference | Reject]]]:
    for number, file in enumerate(files):
        references = blob_references(file, Limits())
        index = 0
        while chunk := list(islice(references, size)):
            yield f"{number:05d}-{index:06d}", file, chunk
            index += 1


def _fetch_part(
    part: PartFiles,
    file: InputFile,
    references: Sequence[BlobReference | Reject],
    store: BlobStore,
    pool: ThreadPoolExecutor,
    threads: int,
) -> FetchReport:
    report = FetchReport()
    with part.writing(report) as writer:
        for reference, future in _ahead(references, store, pool, threads * _AHEAD):
            if isinstance(reference, Reject):
                place = {"file": file.name, "record": reference.record, "reason": reference.reason}
                writer.leave_out("bad_record", place)
            elif future is not None:
                _write(writer, file, reference, future)
    return report


def _write(
    writer: PartWriter, file: InputFile, reference: BlobReference, future: Future[str]
) -> None:
    try:
        writer.text(reference, future.result())
    except LeftOutError as error:
        place = {"blob_id": reference.blob_id, "file": file.name, "record": reference.record}
        writer.leave_out(error.kind, {**place, "reason": str(error)})


def _ahead(
    references: Iterable[BlobReference | Reject],
    store: BlobStore,
    pool: ThreadPoolExecutor,
    most: int,
) -> Iterator[tuple[BlobReference | Reject, Future[str] | None]]:
    """References in order, each with its request, ``most`` of which are begun before they are due."""
    waiting: deque[tuple[BlobReference | Reject, Future[str] | None]] = deque()
    for reference in references:
        if isinstance(reference, Reject):
            waiting.append((reference, None))
        else:
            waiting.append((reference, pool.submit(store.text, reference)))
        if len(waiting) > most:
            yield waiting.popleft()
    yield from waiting


def _gather_left_out(state: Path, parts: Sequence[PartFiles]) -> None:
    with atomic_write(state / "left_out.jsonl", "wb") as gathered:
        for part in parts:
            with open(part.left_out, "rb") as stream:
                shutil.copyfileobj(stream, gathered)
