"""Copies of a run's token files on a node's own disk, checked, and the configuration that names them.

A copy has its source's name and time of change, so that indices and the run's identity, which do not
know folders, are those of the source. Each is compared with it by size and by checksum, read back from the
disk; a record beside it, written last, says so, and the next job on the node finds it there.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..config.schema import RunConfig
from ..errors import DataError
from ..files import fsync_folder, write_json
from .cache import default_cache_folder
from .prefix import prefix_path

ENDINGS = (".bin", ".idx", ".json")
RECORD = ".staged.json"
SPARE_BYTES = 1 << 30  # a disk is not filled to its last byte
_PIECE = 16 << 20
_THREADS = 8

Report = Callable[[str], object]


class NoRoomError(DataError):
    """The node's disk is too small; the files can be read where they are."""

    exit_code = 3


def staged_prefix(prefix: Path | str, folder: Path | str) -> Path:
    """Where the copy of ``prefix`` lies: prefixes of one name from two folders do not meet."""
    source = Path(prefix).absolute()
    return Path(folder) / hashlib.sha256(str(source.parent).encode()).hexdigest()[:8] / source.name


def staged_config(config: RunConfig, folder: Path | str) -> RunConfig:
    """``config`` with the prefixes of the copies, and its indices where they were."""
    config = copy.deepcopy(config)
    if config.data.train and config.data.cache_folder is None:
        config.data.cache_folder = str(default_cache_folder(config.data.train[0].prefix))
    for source in (*config.data.train, *config.data.valid):
        source.name = source.name or Path(source.prefix).name
        source.prefix = str(staged_prefix(source.prefix, folder))
    return config


def stage(config: RunConfig, folder: Path | str, report: Report = print) -> None:
    """Copy every token file of ``config`` that ``folder`` does not hold yet.

    One process of a node at a time works; the others wait for it.

    Raises:
        DataError: a source is missing or changes meanwhile, or a copy is not what was read.
        NoRoomError: what is missing does not fit.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}); give a local disk.") from None
    with _alone(folder):
        _remove_leftovers(folder)
        wanted = list(_wanted(config, folder))
        missing = [pair for pair in wanted if not _is_there(*pair)]
        size = sum(source.stat().st_size for source, _ in missing)
        free = shutil.disk_usage(folder).free
        if missing and size + SPARE_BYTES > free:
            raise NoRoomError(
                f"{folder} has {free / 1e9:.1f} GB free, the data needs {size / 1e9:.1f} GB and a rest of "
                f"{SPARE_BYTES / 1e9:.1f}; make room, or read the data where it is."
            )
        with ThreadPoolExecutor(_THREADS) as pool:
            for future in [pool.submit(_copy, *pair) for pair in missing]:
                future.result()
    report(
        f"{folder}: {len(missing)} of {len(wanted)} files copied, {size / 1e9:.3f} GB; the others were there"
    )


def _wanted(config: RunConfig, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Source and copy of every file, each once."""
    prefixes = dict.fromkeys(s.prefix for s in (*config.data.train, *config.data.valid))
    for prefix in prefixes:
        for ending in ENDINGS:
            source = prefix_path(prefix, ending)
            if source.is_file():
                yield source, prefix_path(staged_prefix(prefix, folder), ending)
            elif ending != ".json":
                raise DataError(f"{source} does not exist; check data.train and data.valid.")


def _remove_leftovers(folder: Path) -> None:
    """Parts of copies whose process was killed: nobody else writes here now, and they would fill the disk."""
    for path in folder.glob("*/.*.tmp"):
        path.unlink(missing_ok=True)


def _is_there(source: Path, target: Path) -> bool:
    """Whether the record says that ``target`` is a checked copy of ``source`` as both are now."""
    try:
        record = json.loads(prefix_path(target, RECORD).read_text(encoding="utf-8"))
        return all(record["state"] == _state(path) for path in (source, target))
    except (OSError, ValueError, KeyError):
        return False


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    before = _state(source)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        digest = hashlib.sha256()
        with open(source, "rb") as reader, open(temporary, "wb") as writer:
            while piece := reader.read(_PIECE):
                digest.update(piece)
                writer.write(piece)
            writer.flush()
            os.fsync(writer.fileno())
            # so that what is read back comes from the disk
            os.posix_fadvise(writer.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if _state(source) != before:
            raise DataError(f"{source} changed while it was copied; stage it when it is finished.")
        if temporary.stat().st_size != before[0] or _digest(temporary) != digest.hexdigest():
            raise DataError(f"{target} is not what was read from {source}; the disk is faulty.")
        os.utime(temporary, ns=(before[1], before[1]))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(target.parent)
    record = {"source": str(source.absolute()), "state": before, "sha256": digest.hexdigest()}
    write_json(prefix_path(target, RECORD), record)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
