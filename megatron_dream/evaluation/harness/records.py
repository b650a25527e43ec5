"""The samples of an evaluation on disk: appended as they are made, each whole or not at all.

Every rank appends to a file of its own; whoever goes on reads all of them, so that a resumed evaluation may
have another number of ranks. A line that a kill cut off is removed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...errors import ConfigError, DataError
from ...files import write_json

Json = dict[str, Any]
Key = tuple[str, int]
RUN_FILE = "run.json"
_NO_LOCKS = (
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.ENOLCK,
)  # file systems without locks, as Lustre may be


class SampleFile:
    """One rank's samples.

    Args:
        folder: of the evaluation.
        rank: this one.

    Raises:
        ConfigError: another process writes it.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"samples.{rank:05d}.jsonl"
        self._stream = open(self.path, "ab+")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise ConfigError(
                f"{self.path} is being written by another evaluation; wait, or give another --output."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        _mend(self.path)

    def append(self, lines: Iterable[Json]) -> None:
        """Write some; they are on disk when this returns."""
        self._stream.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()


def _mend(path: Path) -> None:
    """Cut off what stands behind the last line feed."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def read_samples(folder: Path) -> dict[Key, Json]:
    """All samples that any rank has written, by task and sample number.

    A last line without its end is one that is being written or was cut off, and is not read.

    Raises:
        DataError: a line is no sample.
    """
    found: dict[Key, Json] = {}
    for path in sorted(folder.glob("samples.[0-9]*.jsonl")):
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                sample = json.loads(line)
                key = (sample["task_id"], sample["sample_index"])
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{path}, line {number}: no sample; remove the line to have it made again."
                ) from None
            found.setdefault(key, sample)
    return found


def check_run(folder: Path, wanted: Json) -> None:
    """Write what the evaluation is, or refuse to go on with another one.

    Raises:
        ConfigError: the folder holds samples of something else; names the fields.
    """
    path = folder / RUN_FILE
    if not path.exists():
        if any(folder.glob("samples.[0-9]*.jsonl")):
            raise ConfigError(
                f"{folder} holds samples without {RUN_FILE}, which says of what; give another --output."
            )
        write_json(path, wanted)
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(
            f"{path} is no JSON; remove the folder or give another --output."
        ) from None
    differing = [name for name in wanted if there.get(name) != wanted[name]]
    if differing:
        told = ", ".join(f"{name} {there.get(name)!r}, now {wanted[name]!r}" for name in differing)
        raise ConfigError(
            f"{folder} holds another evaluation ({told}); give another --output or remove it."
        )
