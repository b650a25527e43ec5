"""Going back to the last good checkpoint inside a running job, on all processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...checkpoint.choose import Candidate, Choice, choose_checkpoint, tidy
from ...checkpoint.load import load_training_state
from ...checkpoint.metadata import CheckpointMetadata
from ...data.loader import merge_ranges, ordinal_of
from ...errors import CheckpointError, DataError
from ..engine import data_position
from .decision import (
    DetectorState,
    Place,
    SavedPlace,
    gone_back,
    rollback_order,
    samples_to_skip,
)

if TYPE_CHECKING:
    from ..loop import Loop


def go_back(loop: Loop, since: Place) -> tuple[CheckpointMetadata, CheckpointMetadata]:
    """Bring the last good checkpoint back and say so; the loop's own place is the loop's to change.

    Args:
        loop: as it is.
        since: the first bad update.

    Returns:
        The run's metadata from now on, with the data that is left out, and the step and place in the
        data that it went back to.

    Raises:
        DataError: there is nothing to go back to; on every process alike.
    """
    choice = choose_to_go_back(loop, since)
    fault = restore(loop, choice)
    position = data_position(choice.metadata, loop.config.data.new_stream)
    ranges = skipped_ranges(loop, position, since)
    # Places of an earlier stream over the data mean nothing in this one.
    is_same = choice.metadata.new_stream == loop.metadata.new_stream
    then = DetectorState.of(choice.metadata.faults if is_same else {})
    loop.guard.state = gone_back(loop.guard.state, then, loop.step, position.step)
    loop.log.fault(
        loop.step,
        "rollback",
        f"step {loop.step}: gone back to {choice.folder.name} ({loop.guard.state.rollbacks} of "
        f"{loop.config.faults.max_rollbacks} times), ordinals {ranges} are left out"
        + (f"; {fault}" if fault else ""),
        gone_to=position.step,
    )
    if sentence := choice.sentence():
        loop.log.fault(loop.step, "checkpoint_passed_over", sentence)
    return taken_back(loop.metadata, position, ranges), position


def choose_to_go_back(loop: Loop, since: Place) -> Choice:
    """The checkpoint to go back to, its files checked.

    Raises:
        DataError: there is none, or the run has gone back too often; on every process alike.
    """
    state, limit = loop.guard.state, loop.config.faults.max_rollbacks
    advice = "look at the data from there on and at optimizer.lr, then start the run again"
    if state.rollbacks >= limit:
        raise DataError(
            f"updates are bad again at step {loop.step}, after the run has gone back {state.rollbacks} "
            f"times (faults.max_rollbacks {limit}) from there or before; {advice}: it goes on from its "
            "last checkpoint"
        )
    folder = Path(loop.config.checkpoint.run_folder) / "checkpoints"

    def order(found: Sequence[Candidate], latest: str | None) -> list[Candidate]:
        by_name = {one.name: one for one in found if one.metadata is not None}
        places = [_place(one.name, one.metadata) for one in by_name.values() if one.metadata]
        gone_to = state.gone_to if state.rollbacks else None
        return [by_name[one.name] for one in rollback_order(places, since.step, gone_to)]

    try:
        choice = choose_checkpoint(folder, loop.ranks, order)
    except CheckpointError as error:
        raise DataError(f"updates are bad from step {since.step + 1} on, and {error}") from None
    if choice is None or loop.writer is None:
        raise DataError(
            f"updates are bad from step {since.step + 1} on, and there is no checkpoint from before to go "
            f"back to; lower optimizer.lr or look at the data, and set checkpoint.save_interval"
        )
    return choice


def _place(name: str, metadata: CheckpointMetadata) -> SavedPlace:
    return SavedPlace(name, metadata.step, DetectorState.of(metadata.faults).in_row)


def restore(loop: Loop, choice: Choice) -> str | None:
    """Bring weights, optimizer and schedule back, and put the folder in order.

    Returns:
        A sentence where the folder could not be put in order.
    """
    load_training_state(
        choice.folder,
        loop.model,
        loop.optimizer,
        loop.scheduler,
        loop.ranks,
        verified=choice.metadata,
    )
    return tidy(choice, loop.ranks)


def skipped_ranges(loop: Loop, position: CheckpointMetadata, since: Place) -> list[list[int]]:
    """The ranges of ordinals that the run leaves out from now on.

    Args:
        loop: before it is put back.
        position: step and place in the present stream that it goes back to.
        since: the first bad update.
    """
    before = merge_ranges([(first, end) for first, end in loop.metadata.skipped_ranges])
    first, end = samples_to_skip(
        since,
        loop.consumed,
        position.consumed_samples,
        loop.samples_a_step,
        loop.config.faults.rollback_extra_steps,
    )
    new = (ordinal_of(first, before), ordinal_of(end - 1, before) + 1)
    return [[start, stop] for start, stop in merge_ranges([*before, new])]


def taken_back(
    metadata: CheckpointMetadata, position: CheckpointMetadata, ranges: list[list[int]]
) -> CheckpointMetadata:
    """A run's metadata at the place that it went back to.

    Args:
        metadata: as it is now.
        position: that place.
        ranges: ordinals to leave out.
    """
    return dataclasses.replace(
        metadata,
        step=position.step,
        consumed_samples=position.consumed_samples,
        earlier_samples=position.earlier_samples,
        skipped_ranges=ranges,
    )
