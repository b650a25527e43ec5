"""Whether a checkpoint has room on its disk, and what may go to make some.

Free bytes are those that the file system tells (``statvfs``). A quota of a user or a project is not
always among them, and other programs write too: a save that passes here can still meet a full disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .metadata import FILE_NAME, LATEST, CheckpointMetadata, read_metadata

STEP_FOLDER = re.compile(r"step_(\d{8})")
_LEFTOVER = re.compile(r"\.step_\d{8}\.(tmp|old)")
_SET_ASIDE = re.compile(r"step_\d{8}\.(bad|left)")
_SHARE, _BYTES = 1.02, 1 << 20  # headers, plain values, block sizes


@dataclass(frozen=True)
class Kept:
    """What retention leaves in place, beside the one that ``latest`` names.

    Attributes:
        last: how many of the newest.
        every: those of steps that it divides stay for good; 0: none do.
        read: names of those that an export reads or will read.
    """

    last: int
    every: int = 0
    read: frozenset[str] = frozenset()

    def may_go(self, folder: Path, newest: int) -> list[str]:
        """Names of complete checkpoints (the oldest first) that need not stay, beside the ``newest``.

        A damaged one does not count among those, and one that was made while updates were being skipped
        does not stand in for the last one before that, to which the run may have to go back.
        """
        complete, latest = complete_checkpoints(folder), read_latest(folder)
        return [
            name
            for name in complete[: _first_to_stay(folder, complete, newest)]
            if name != latest and name not in self.read and not self._is_for_good(name)
        ]

    def _is_for_good(self, name: str) -> bool:
        return bool(self.every) and int(name.removeprefix("step_")) % self.every == 0


def complete_checkpoints(folder: Path) -> list[str]:
    """Names of the step checkpoints that have their marker, the oldest first."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if STEP_FOLDER.fullmatch(entry.name) and (entry / FILE_NAME).is_file()
    )


def _first_to_stay(folder: Path, complete: list[str], newest: int) -> int:
    """From which of ``complete`` on there are ``newest`` whole ones, one of them good to go back to."""
    num_whole, has_good = 0, False
    for index in reversed(range(len(complete))):
        metadata = _whole(folder / complete[index])
        if metadata is not None:
            num_whole += 1
            has_good = has_good or not metadata.faults.get("in_row")
        if num_whole >= newest and has_good:
            return index
    return 0


def _whole(folder: Path) -> CheckpointMetadata | None:
    """A checkpoint's metadata, if its files have their sizes; checksums would take too long."""
    try:
        metadata = read_metadata(folder)
        sizes = {name: entry["bytes"] for name, entry in metadata.files.items()}
        found = {name: (folder / name).stat().st_size for name in sizes}
    except (CheckpointError, OSError, KeyError, TypeError):
        return None
    return metadata if found == sizes else None


def make_room(folder: Path, needed: int, kept: Kept) -> str | None:
    """See that ``needed`` bytes of tensors fit; remove what retention would remove afterwards if they do not.

    That is: folders that were set aside, then checkpoints beyond ``kept.last`` - 1, the oldest first. The
    one that ``latest`` names and the newest whole one always stay, and what ``kept`` names besides.

    Args:
        folder: of the checkpoints.
        needed: bytes of the next one's tensors.
        kept: checkpoints to keep, the next one included.

    Returns:
        A sentence where there is no room; None where there is.
    """
    wanted = int(needed * _SHARE) + _BYTES
    if free_bytes(folder) >= wanted:
        return None
    doomed = [folder / name for name in _set_aside(folder)]
    doomed += [folder / name for name in kept.may_go(folder, newest=max(1, kept.last - 1))]
    for victim in doomed:
        if free_bytes(folder) >= wanted:
            return None
        remove_folder(victim)
    if (free := free_bytes(folder)) >= wanted:
        return None
    return (
        f"{folder} has {_size(free)} free and the checkpoint needs {_size(wanted)}; free "
        f"{_size(wanted - free)}, or lower checkpoint.keep_last"
    )


def free_bytes(folder: Path) -> int:
    """What an ordinary user can still write there, as the file system tells."""
    return shutil.disk_usage(folder).free


def read_latest(folder: Path) -> str | None:
    """What ``latest`` says; None where it says nothing that can be the name of a folder beside it."""
    try:
        name = (folder / LATEST).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if name and Path(name).name == name else None


def remove_old(folder: Path, kept: Kept) -> None:
    """Remove all but the newest step checkpoints (``Kept.may_go``) and the newest that was set aside.

    The one that ``latest`` names always stays, and what ``kept`` names besides.
    """
    for name in kept.may_go(folder, newest=kept.last):
        remove_folder(folder / name)
    for name in _set_aside(folder)[:-1]:
        remove_folder(folder / name)


def remove_folder(folder: Path) -> None:
    """Remove a checkpoint; renamed first: a crash while deleting must not leave one that looks complete."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left half written or half deleted."""
    if folder.is_dir():
        for entry in folder.iterdir():
            if _LEFTOVER.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)


def set_aside(folder: Path, ending: str) -> Path:
    """Give a checkpoint a name that no reader takes: ``NAME.bad`` or ``NAME.left``."""
    target = folder.with_name(f"{folder.name}.{ending}")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(folder, target)
    return target


def _set_aside(folder: Path) -> list[str]:
    """Names of folders that were set aside, the oldest first."""
    found = [entry for entry in folder.iterdir() if _SET_ASIDE.fullmatch(entry.name)]
    return [entry.name for entry in sorted(found, key=lambda entry: entry.name)]


def _size(count: int) -> str:
    for unit, power in (("GB", 9), ("MB", 6)):
        if abs(count) >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count:,} bytes"
