"""The cells of a sweep on disk: each measured once, whole or not at all, by any number of processes.

``DIR/cells/KEY/rows.json`` is a measured cell. KEY is made from everything that the cell is measured with,
so that a changed YAML asks for other cells and never reads an older one's rows.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from ...files import write_json
from .base import Cell, Json, Kind, Row

ROWS_FILE = "rows.json"
_READABLE = 60  # characters of a key that a person recognises the cell by
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # as Lustre may be


def cell_key(kind: str, columns: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """A folder's name for a cell: its columns' values to read, a digest of everything to tell it by."""
    told = "-".join(f"{value:g}" if isinstance(value, float) else str(value)
                    for value in columns.values() if value is not None)  # fmt: skip
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", told).strip("-.")[:_READABLE].rstrip("-.")
    content = json.dumps([kind, columns, fields], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return f"{readable}-{digest}" if readable else digest


@dataclass(frozen=True)
class Shard:
    """Which cells are this process's: number ``index``, from 1, and every ``count``-th after it."""

    index: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Shard:
        """From ``I/N``.

        Raises:
            ConfigError: it is no such pair, or I is not among 1 to N.
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        shard = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise ConfigError(f"--shard is {text!r}: give I/N, I from 1 to N, such as 1/2.")
        return shard

    def of_cells(self, cells: Sequence[Cell]) -> list[Cell]:
        """This process's."""
        return list(cells[self.index - 1 :: self.count])


@dataclass(frozen=True)
class Measured:
    """A measured cell.

    Attributes:
        rows: with the cell's columns first.
        commit: of the code; None outside a clone.
        date: UTC, when it was done.
        seconds: that the last process took for it.
        machine: where.
    """

    rows: list[Row]
    commit: str | None = None
    date: str = ""
    seconds: float = 0.0
    machine: Json = field(default_factory=dict)


class Store:
    """The cells of one kind in one folder."""

    def __init__(self, folder: Path, kind: Kind, cells: Sequence[Cell]) -> None:
        self.folder, self.kind, self.cells = folder, kind, cells
        keys = [cell.key for cell in cells]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            columns = next(cell.columns for cell in cells if cell.key == twice[0])
            raise ConfigError(f"two cells are the same ({columns}); keep one of them in the YAML.")

    def path(self, cell: Cell) -> Path:
        """Its folder."""
        return self.folder / "cells" / cell.key

    def missing(self) -> list[Cell]:
        """Cells that are not measured yet, in order."""
        return [cell for cell in self.cells if not (self.path(cell) / ROWS_FILE).exists()]

    def read(self, cell: Cell) -> Measured | None:
        """A cell as measured; None: it is not.

        Raises:
            ConfigError: the folder holds a cell that was measured with something else.
            DataError: the file is damaged.
        """
        path = self.path(cell) / ROWS_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            there = {name: content[name] for name in ("kind", "columns", "fields")}
            measured = Measured(**{n: content[n] for n in Measured.__dataclass_fields__})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path} is damaged; remove its folder to have the cell measured again."
            ) from None
        self._refuse_other(path, there, cell)
        return measured

    def measure(self, cell: Cell) -> None:
        """Measure a cell that is missing.

        Raises:
            ConfigError: another process measures it now.
            UserError: as the kind says.
        """
        from ...training.provenance import source_commit

        folder = self.path(cell)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if (folder / ROWS_FILE).exists():  # another process has done it meanwhile
                return
            started, commit = time.monotonic(), source_commit()
            rows = [_checked({**cell.columns, **row}) for row in self.kind.measure(cell, folder)]
            content = {
                **_identity(self.kind, cell),
                "rows": rows,
                "commit": commit,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - started, 3),
                "machine": machine(),
            }
            write_json(folder / ROWS_FILE, content)

    def _refuse_other(self, path: Path, there: Json, cell: Cell) -> None:
        wanted = _identity(self.kind, cell)
        differing = [name for name in wanted if there[name] != wanted[name]]
        if differing:
            told = ", ".join(f"{name} {there[name]}, now {wanted[name]}" for name in differing)
            raise ConfigError(
                f"{path} was measured with something else ({told}); give another --output."
            )


def _identity(kind: Kind, cell: Cell) -> Json:
    """What a cell is, as JSON gives it back."""
    content = {"kind": kind.name, "columns": cell.columns, "fields": cell.fields}
    return dict(json.loads(json.dumps(content)))


def _checked(row: Row) -> Row:
    """A row for JSON: what is not finite is not there."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def machine() -> Json:
    """What figures of time depend on: cores that this process may use, threads, device."""
    import torch

    from ...device import device_type

    told = {
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "device": device_type(),
    }
    if told["device"] == "cuda":
        told["gpu"] = torch.cuda.get_device_name()
    return told


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is being measured by another process; wait, or share the cells by --shard."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
