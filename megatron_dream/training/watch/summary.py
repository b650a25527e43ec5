"""One short text on a hang: which ranks were where, and who did not answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MOST_GROUPS = 8
_MOST_NAMED = 4  # ranks of a group that are named with host and pid


@dataclass(frozen=True)
class Answer:
    """What is known of a rank when the summary is made.

    Attributes:
        rank: its number.
        host: its node.
        pid: its process.
        phase: that it said last.
        step: of that.
        seconds: that it had been in it, as it said last.
        where: what its main thread was at; None: it gave no answer.
        silence: seconds since its last heartbeat; None: it never had one.
    """

    rank: int
    host: str = "?"
    pid: int = 0
    phase: str = "start"
    step: int = 0
    seconds: float = 0.0
    where: str | None = None
    silence: float | None = None


def ranges(numbers: Iterable[int]) -> str:
    """``0-3, 5`` for 0, 1, 2, 3, 5."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def summarise(answers: Sequence[Answer], cause: str) -> str:
    """Lines for the end of a job's log; ranks that are where fewest are come first.

    Args:
        answers: of every rank of the run.
        cause: who noticed what.
    """
    total = len(answers)
    silent = [one for one in answers if one.where is None]
    groups: dict[tuple[str, str], list[Answer]] = {}
    for one in answers:
        if one.where is not None:
            groups.setdefault((one.where, one.phase), []).append(one)
    lines = [f"HANG: {cause}"]
    lines += [f"  {_silent(one)}" for one in silent[:_MOST_GROUPS]]
    if len(silent) > _MOST_GROUPS:
        lines.append(f"  in all {len(silent)} ranks do not answer: {_named(silent)}")
    by_size = sorted(groups.items(), key=lambda item: len(item[1]))
    for (place, phase), group in by_size[:_MOST_GROUPS]:
        lines.append(f"  {_count(group, total)} {_in_number(place, len(group))} (phase {phase})")
    if len(by_size) > _MOST_GROUPS:
        rest = sum(len(group) for _, group in by_size[_MOST_GROUPS:])
        lines.append(f"  {rest} further ranks are elsewhere: see the files of stacks")
    return "\n".join(lines)


def _silent(one: Answer) -> str:
    last = (
        "it never had a heartbeat"
        if one.silence is None
        else f"last heartbeat {one.silence:.0f} s ago in phase {one.phase} of step {one.step}"
    )
    return f"rank {one.rank} (host {one.host}, pid {one.pid}) does not answer: {last}"


def _count(group: Sequence[Answer], total: int) -> str:
    if len(group) == 1:
        one = group[0]
        return f"rank {one.rank} (host {one.host}, pid {one.pid})"
    return f"{len(group)} of {total} ranks ({_named(group)})"


def _named(group: Sequence[Answer]) -> str:
    text = ranges(one.rank for one in group)
    if len(group) > _MOST_NAMED:
        return text
    return f"{text}; hosts {', '.join(sorted({one.host for one in group}))}"


def _in_number(place: str, count: int) -> str:
    """``waits in`` of one rank is ``wait in`` of several."""
    if count == 1:
        return place
    for one, many in (("waits ", "wait "), ("is ", "are "), ("has ", "have ")):
        if place.startswith(one):
            return many + place.removeprefix(one)
    return place
