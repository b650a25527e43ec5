"""Which checkpoint a run goes on from: the newest whose every file is what was written.

``latest`` is asked first and not trusted: a file may have been cut off or changed since, or be
unreadable. What does not pass is passed over for the one before. Rank 0 lists and reads the markers, the
checksums are shared out over the processes, and all of them get the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from .. import parallel
from ..errors import CheckpointError
from ..parallel import Ranks
from .metadata import FILE_NAME, LATEST, CheckpointMetadata, read_metadata, verify_files
from .room import STEP_FOLDER, read_latest, set_aside
from .save import point_latest

BAD, LEFT = "bad", "left"  # endings of folders that were set aside


@dataclass(frozen=True)
class Candidate:
    """A checkpoint folder as rank 0 sees it.

    Attributes:
        name: of the folder.
        metadata: None where it cannot be read.
        fault: why not.
    """

    name: str
    metadata: CheckpointMetadata | None
    fault: str | None = None


@dataclass(frozen=True)
class Choice:
    """A checkpoint whose files are whole.

    Attributes:
        folder: its.
        metadata: its.
        passed_over: names of better ones and what is wrong with each.
    """

    folder: Path
    metadata: CheckpointMetadata
    passed_over: tuple[tuple[str, str], ...] = ()

    def sentence(self) -> str | None:
        """For a person, if something was passed over."""
        if not self.passed_over:
            return None
        said = "; ".join(f"{name} is passed over: {fault}" for name, fault in self.passed_over)
        return f"{said}; the run goes on from {self.folder.name}"


Order = Callable[[Sequence[Candidate], str | None], Sequence[Candidate]]


def newest_first(found: Sequence[Candidate], latest: str | None) -> list[Candidate]:
    """What ``latest`` names, then those before it; all, the newest first, where it names nothing there.

    One that is newer than ``latest`` stays out: somebody may have set ``latest`` back, and where a crash
    came between a save's last two steps the one before is as good.
    """
    ordered = sorted(found, key=lambda one: one.name, reverse=True)
    names = [one.name for one in ordered]
    return ordered[names.index(latest) :] if latest in names else ordered


def candidates(folder: Path) -> list[Candidate]:
    """All step checkpoints with a marker, and what ``latest`` names."""
    if not folder.is_dir():
        return []
    names = {entry.name for entry in folder.iterdir() if STEP_FOLDER.fullmatch(entry.name)}
    latest = read_latest(folder)
    if latest and (folder / latest).is_dir():
        names.add(latest)
    if not names and (folder / LATEST).exists():
        return [Candidate(latest or LATEST, None, f"{LATEST} names {latest}, which is not there")]
    return [_read(folder, name) for name in sorted(names)]


def _read(folder: Path, name: str) -> Candidate:
    try:
        return Candidate(name, read_metadata(folder / name))
    except (CheckpointError, OSError, TypeError) as error:
        return Candidate(name, None, str(error))


def choose_checkpoint(folder: Path, ranks: Ranks, order: Order = newest_first) -> Choice | None:
    """The first in ``order`` whose files are whole; every process calls this and gets the same.

    Nothing is changed (``tidy`` does that).

    Args:
        folder: of the checkpoints.
        ranks: this process's place.
        order: of the candidates, given what ``latest`` names.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        CheckpointError: there are some and none is whole.
    """
    ordered = _ordered(folder, ranks, order)
    return _first_whole(folder, ordered, lambda path, saved: check_files(path, saved, ranks))


def foreseen_choice(folder: Path) -> Choice | None:
    """What ``choose_checkpoint`` will take, told by one process alone: files by their sizes only.

    Raises:
        CheckpointError: there are some and none is whole.
    """
    try:
        ordered = newest_first(candidates(folder), read_latest(folder))
    except OSError as error:
        raise CheckpointError(_unreadable(folder, error)) from None
    # No part of the checksums: sizes only.
    return _first_whole(folder, ordered, lambda path, saved: _fault_of_files(path, saved, -1))


def _first_whole(
    folder: Path,
    ordered: Sequence[Candidate],
    fault_of: Callable[[Path, CheckpointMetadata], str | None],
) -> Choice | None:
    passed_over: list[tuple[str, str]] = []
    for one in ordered:
        fault = one.fault
        if one.metadata is not None:
            fault = fault_of(folder / one.name, one.metadata)
            if fault is None:
                return Choice(folder / one.name, one.metadata, tuple(passed_over))
        passed_over.append((one.name, str(fault)))
    if not passed_over:
        return None
    raise CheckpointError(
        f"{folder} has no checkpoint that can be used ({passed_over[0][1]}); bring one back from a copy, "
        f"or remove the folder to begin anew"
    )


def _ordered(folder: Path, ranks: Ranks, order: Order) -> list[Candidate]:
    """Rank 0's list of candidates, on every process."""
    listed: object = None
    if ranks.rank == 0:
        try:
            listed = list(order(candidates(folder), read_latest(folder)))
        except OSError as error:
            listed = _unreadable(folder, error)
    found = parallel.broadcast_object(listed)
    if isinstance(found, str):
        raise CheckpointError(found)
    return found  # type: ignore[return-value]


def _unreadable(folder: Path, error: OSError) -> str:
    return f"{folder} cannot be read ({error}); mend the disk, then start the run again"


def check_files(folder: Path, metadata: CheckpointMetadata, ranks: Ranks) -> str | None:
    """The first fault of a checkpoint's files, the same on every process; checksums are shared out."""
    fault = _fault_of_files(folder, metadata, ranks.rank, ranks.world_size)
    faults: list[str | None] = [None] * ranks.world_size
    dist.all_gather_object(faults, fault)
    return next((sentence for sentence in faults if sentence), None)


def _fault_of_files(
    folder: Path, metadata: CheckpointMetadata, part: int, parts: int = 1
) -> str | None:
    try:
        return verify_files(folder, metadata, part=part, parts=parts)
    except (OSError, KeyError, TypeError) as error:  # or a marker that holds other things
        return f"{folder} cannot be read ({error!r}); use another checkpoint"


def tidy(choice: Choice, ranks: Ranks) -> str | None:
    """Rename what was passed over and let ``latest`` name the choice; every process calls this.

    A folder ``step_N`` becomes ``step_N.bad``, which no reader and no retention takes for a checkpoint.
    Those that are newer and whole become ``step_N.left``: the run does not go on from them.

    Returns:
        A sentence where that failed, on every process.
    """
    fault: str | None = None
    if ranks.rank == 0:
        try:
            _rename(choice)
        except OSError as error:
            fault = f"{choice.folder.parent} cannot be put in order ({error})"
    return parallel.broadcast_object(fault)  # type: ignore[return-value]


def _rename(choice: Choice) -> None:
    folder = choice.folder.parent
    bad = {name for name, _ in choice.passed_over}
    # First, so that a crash in between leaves a run that begins where this one does.
    if read_latest(folder) != choice.folder.name:
        point_latest(choice.folder)
    for entry in sorted(folder.iterdir()):
        is_step = STEP_FOLDER.fullmatch(entry.name) is not None
        if entry.name in bad and entry.is_dir():
            set_aside(entry, BAD)
        elif is_step and entry.name > choice.folder.name and (entry / FILE_NAME).is_file():
            set_aside(entry, LEFT)
