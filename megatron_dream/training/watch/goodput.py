"""Where a run's time went, over all its starts: read off the records of its log.

Goodput is the time of steps that count over the wall time since the first start. What does not count has
a name; the parts add up to the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

_BY_EVENT = {"validation": "validation", "checkpoint": "saves"}
_NO_UPDATE = ("skipped", "gone back")


@dataclasses.dataclass
class Account:
    """Seconds since the first start, by what they went into."""

    counted: float = 0.0  # steps whose updates are in the model
    again: float = 0.0  # steps lost to an earlier checkpoint, by a new start or by going back
    skipped: float = 0.0  # steps without an update
    start_up: float = 0.0  # from a process's beginning to its first step
    saves: float = 0.0  # checkpoints, as far as they held up the loop
    validation: float = 0.0
    between_starts: float = 0.0  # in the queue, and from the last word of a start to its end
    other: float = 0.0
    total: float = 0.0

    @property
    def goodput(self) -> float | None:
        """Counted over total."""
        return self.counted / self.total if self.total > 0 else None

    def parts(self) -> dict[str, float]:
        """Share of the total by name."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "total"]
        return {name: getattr(self, name) / self.total for name in names} if self.total > 0 else {}


def account(records: Sequence[dict[str, Any]], now: float) -> Account:
    """Account of a log's records.

    Args:
        records: in the order of the log.
        now: epoch seconds up to which is counted: of the last record where the run has ended.
    """
    found = Account()
    segments = _segments(records)
    if not segments:
        return found
    first = previous_end = _began(segments[0])
    went_on = _went_on_from(segments)
    for number, segment in enumerate(segments):
        is_last = number == len(segments) - 1
        began = max(_began(segment), previous_end)
        end = max(began, now) if is_last else max(began, segment[-1]["time"])
        found.between_starts += began - previous_end
        before = _known(found)
        found.start_up += max(0.0, segment[0]["time"] - began)
        for record in segment[1:]:
            _add(found, record, next(went_on))
        found.other += max(0.0, end - began - (_known(found) - before))
        previous_end = end
    found.total = previous_end - first
    return found


def _segments(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Records of each start, which its ``start`` begins."""
    segments: list[list[dict[str, Any]]] = []
    for record in records:
        if record.get("event") == "start":
            segments.append([record])
        elif segments:
            segments[-1].append(record)
    return segments


def _went_on_from(segments: Sequence[list[dict[str, Any]]]) -> Iterator[int | None]:
    """For each record but the starts: the earliest step that the run went on from later; None: no such."""
    found: list[int | None] = []
    earliest: int | None = None
    for segment in reversed(segments):
        for record in reversed(segment[1:]):
            if (gone_to := record.get("gone_to")) is not None:
                earliest = gone_to if earliest is None else min(earliest, gone_to)
            found.append(earliest)
        step = segment[0]["step"]
        earliest = step if earliest is None else min(earliest, step)
    return reversed(found)


def _began(segment: list[dict[str, Any]]) -> float:
    start = segment[0]
    return float(start.get("began", start["time"]))


def _known(found: Account) -> float:
    """What is accounted for inside of starts, ``other`` left out."""
    return (
        found.counted
        + found.again
        + found.skipped
        + found.start_up
        + found.saves
        + found.validation
    )


def _add(found: Account, record: dict[str, Any], goes_on_from: int | None) -> None:
    event = record.get("event")
    # With logging.interval above 1 a record stands for the steps since the one before it.
    known = ("seconds_since_record", "stall_seconds", "seconds")
    seconds = float(next((record[name] for name in known if record.get(name) is not None), 0.0))
    if event == "step":
        is_lost = goes_on_from is not None and record["step"] > goes_on_from
        is_skipped = record.get("update") in _NO_UPDATE
        name = "again" if is_lost else "skipped" if is_skipped else "counted"
    elif event in _BY_EVENT:
        name = _BY_EVENT[event]
    else:
        return
    setattr(found, name, getattr(found, name) + seconds)


class Ledger:
    """The account of a run that goes on.

    Args:
        records: of its log so far.
        now: epoch seconds.
    """

    def __init__(self, records: Sequence[dict[str, Any]], now: float) -> None:
        self._account = account(records, now)
        self._first = now - self._account.total
        self._booked = now

    def add(self, record: dict[str, Any]) -> None:
        """Take a new record into account."""
        _add(self._account, record, None)
        self._booked = max(self._booked, float(record.get("time", self._booked)))

    def now(self) -> Account:
        """Up to the last record."""
        total = self._booked - self._first
        other = total - _known(self._account) - self._account.between_starts
        return dataclasses.replace(self._account, total=total, other=max(0.0, other))
