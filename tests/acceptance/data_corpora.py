"""Corpora of the data checks (data_bytes.py and its siblings), and what a plain reading of them gives.

Nothing here uses the package's readers: the folder walk, the decoding and the JSON are Python's own,
so that a difference is one of theirs.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
STDLIB = Path(sysconfig.get_path("stdlib"))
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
IDENTIFIERS = "jinja2/_identifier.py"  # its code points differ between Unicode versions
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """One record: its place and its text; None where it must be rejected.

    Attributes:
        file: path as the command is given it.
        line: from 1, in JSON Lines; 0 where the file is the record.
        text: content.
    """

    file: str
    line: int
    text: str | None


@dataclass(frozen=True)
class Corpus:
    """What the command reads, and what it should find there.

    Attributes:
        name: for the printed lines.
        inputs: words behind ``--input``.
        flags: further words, such as a template.
        read: gives the records in order.
        shard_mb: small enough for many shards.
    """

    name: str
    inputs: tuple[str, ...]
    flags: tuple[str, ...]
    read: Callable[[], Iterator[Record]]
    shard_mb: float


def shared_file(name: str) -> Path:
    """A file of the folder ``shared/data`` beside the project.

    Raises:
        SystemExit: it is not there.
    """
    path = SHARED / name
    if not path.exists():
        raise SystemExit(f"{path} is not there; put the folder shared beside the project.")
    return path


def python_files(folder: Path, leave_out: Sequence[str] = ()) -> list[Path]:
    """Every ``.py`` file below a folder: a folder's own files first, then its folders, both sorted."""
    real, found = folder.resolve(), []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in leave_out)
        for name in sorted(names):
            path = Path(place, name)
            if name.endswith(".py") and path.is_file() and path.resolve().is_relative_to(real):
                found.append(path)
    return found


def standard_library() -> list[Path]:
    """Python files of the interpreter, its tests among them, without what is installed in it."""
    return python_files(STDLIB, leave_out=("site-packages", "dist-packages"))


def evenly(paths: Sequence[Path], limit_bytes: float | None, needed: str = "") -> list[Path]:
    """About so many bytes of the files, taken evenly, in their order; all where there is no limit."""
    if limit_bytes is None:
        return list(paths)
    sizes = [path.stat().st_size for path in paths]
    share, owed, kept = min(1.0, limit_bytes / max(1, sum(sizes))), 0.0, []
    for path, size in zip(paths, sizes, strict=True):
        owed += share * size
        if owed >= size or (needed and path.as_posix().endswith(needed)):
            owed -= size
            kept.append(path)
    return kept


def of_files(name: str, paths: Sequence[Path], listing: Path, shard_mb: float) -> Corpus:
    """A corpus of source files, named in an ``@list``."""
    listing.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    return Corpus(name, (f"@{listing}",), (), lambda: map(_record_of_file, paths), shard_mb)


def of_folder(name: str, source: Path, folder: Path, shard_mb: float) -> Corpus:
    """A corpus of all Python files of ``source``, copied into ``folder`` and named by it.

    Copied because somebody may install a package while this runs, which takes hours.
    """
    for path in python_files(source):
        copy = folder / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    paths = python_files(folder)
    return Corpus(name, (str(folder),), (), lambda: map(_record_of_file, paths), shard_mb)


def of_lines(name: str, path: Path, shard_mb: float) -> Corpus:
    """A corpus of JSON Lines with the field ``text``."""
    read = lambda: json_records(path, lambda record: record["text"])  # noqa: E731
    return Corpus(name, (str(path),), (), read, shard_mb)


def human_eval(folder: Path) -> Corpus:
    """HumanEval as it is published (one gzip stream) and unpacked (several shards), by a template."""
    packed, plain = shared_file("HumanEval.jsonl.gz"), folder / "HumanEval.jsonl"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))

    def text_of(record: Any) -> Any:
        return record["prompt"] + record["canonical_solution"]

    def read() -> Iterator[Record]:
        yield from json_records(packed, text_of)
        yield from json_records(plain, text_of)

    flags = ("--template", "{prompt}{canonical_solution}")
    return Corpus("HumanEval", (str(packed), str(plain)), flags, read, 0.02)


def json_records(path: Path, text_of: Callable[[Any], Any]) -> Iterator[Record]:
    """Records of JSON Lines: a blank line is none, a bad one has no text."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            line = raw.removeprefix(BYTE_ORDER_MARK) if number == 1 else raw
            if line.strip():
                yield Record(str(path), number, _text_of_line(line, text_of))


def _text_of_line(line: bytes, text_of: Callable[[Any], Any]) -> str | None:
    try:
        text = text_of(json.loads(line.decode("utf-8")))
        text.encode("utf-8")  # half of a surrogate pair has none
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return text if isinstance(text, str) else None


def _record_of_file(path: Path) -> Record:
    try:
        text = path.read_bytes().removeprefix(BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError:
        return Record(str(path), 0, None)
    return Record(str(path), 0, text)


def write_source_lines(path: Path, num_bytes: int) -> tuple[int, int]:
    """Write about so many bytes of Python source as JSON Lines, each file once as long as there are any.

    Returns:
        bytes of text, and how many of them are of files that were not written before.
    """
    written = distinct = 0
    paths = [*standard_library(), *python_files(SITE_PACKAGES)]
    with open(path, "w", encoding="utf-8") as stream:
        while written < num_bytes:
            first_round = written
            for found in paths:
                text = _record_of_file(found).text
                if text:
                    stream.write(json.dumps({"text": text}) + "\n")
                    written += len(text.encode("utf-8"))
                if written >= num_bytes:
                    break
            distinct = distinct or written
            if written == first_round:
                raise SystemExit("no Python source was found in this environment")
    return written, distinct
