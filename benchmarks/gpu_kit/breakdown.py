"""Seconds of a step by part, from a profiler's trace (Chrome's format, as torch.profiler writes it).

Each moment of the window belongs to one part, so that parts add up to the window. On a GPU: to the kernel
that computes; else to a copy; else to communication, which then hides behind nothing; else the device has
nothing to do: ``data`` while the process waits for the loader, ``gaps`` otherwise. On a CPU, to the innermost
operator. A kernel belongs to the range it was launched in (``kit.head``, ``kit.optimizer``), else to what its
name says. The backward pass runs in a thread of its own, where the head's is told by its autograd node.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .kernels import PARTS, part_of

RANGES = {"kit.head": "head", "kit.optimizer": "optimizer", "kit.data": "data"}
STEP = "kit.step"
_HEAD_NODE = re.compile(r"MaskedCrossEntropy")
_KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_MICRO = 1e-6
# Who owns a moment in which several run: what computes, then copies, then communication.
_RANK = {"data": 1, "communication": 0}


@dataclass
class Breakdown:
    """Where the time of a window went.

    Attributes:
        seconds: by part; they add up to ``window``.
        window: seconds that were looked at.
        hidden_communication: seconds of communication beside computation.
        top: the longest kernels or operators: name, part, seconds, count.
    """

    seconds: dict[str, float]
    window: float
    hidden_communication: float = 0.0
    top: list[dict[str, Any]] = field(default_factory=list)

    def shares(self) -> dict[str, float]:
        """Of the window."""
        return {
            part: value / self.window if self.window else 0.0
            for part, value in self.seconds.items()
        }


@dataclass(frozen=True)
class Span:
    """Something that took time: microseconds."""

    start: float
    end: float
    part: str
    name: str


def break_down(events: Iterable[dict[str, Any]], top: int = 20) -> Breakdown:
    """Of the events of a trace; the window is that of its ``kit.step`` ranges.

    Raises:
        ValueError: there is no such range.
    """
    complete = [event for event in events if event.get("ph") == "X"]
    steps = [event for event in complete if event.get("name") == STEP and _is_host(event)]
    if not steps:
        raise ValueError(f"the trace has no range {STEP!r}")
    kernels = [event for event in complete if event.get("cat") in _KERNELS]
    # The device ends after the process that gave it the last step's work.
    window = min(e["ts"] for e in steps), max(e["ts"] + e["dur"] for e in [*steps, *kernels])
    spans = _kernel_spans(kernels, complete) if kernels else _operator_spans(complete, steps[0])
    spans = [span for span in spans if span.end > window[0] and span.start < window[1]]
    seconds, hidden = _owned(spans, window)
    idle = (window[1] - window[0]) * _MICRO - sum(seconds.values())
    waits = _idle_in_data(spans, complete, window) if kernels else 0.0
    seconds["data"] += waits
    seconds["gaps"] += max(0.0, idle - waits)
    return Breakdown(seconds, (window[1] - window[0]) * _MICRO, hidden, _top(spans, top))


def _is_host(event: dict[str, Any]) -> bool:
    return event.get("cat") in ("user_annotation", "cpu_op")


class _Ranges:
    """Ranges of each thread, by part; nested ones belong to the innermost."""

    def __init__(self, complete: list[dict[str, Any]]) -> None:
        by_thread: dict[Any, list[tuple[float, float, str]]] = defaultdict(list)
        for event in complete:
            part = RANGES.get(event["name"]) if _is_host(event) else None
            if part is None and event.get("cat") == "cpu_op" and _HEAD_NODE.search(event["name"]):
                part = "head"
            if part is not None:
                by_thread[event.get("tid")].append((event["ts"], event["ts"] + event["dur"], part))
        self._by_thread = {thread: sorted(found) for thread, found in by_thread.items()}

    def of(self, thread: Any, moment: float) -> str | None:
        """Part of the range that a moment of a thread lies in."""
        found = self._by_thread.get(thread, [])
        index = bisect.bisect_right(found, (moment, float("inf"), ""))
        for start, end, part in reversed(found[max(0, index - 8) : index]):
            if start <= moment < end:
                return part
        return None


def _kernel_spans(kernels: list[dict[str, Any]], complete: list[dict[str, Any]]) -> list[Span]:
    launches = {
        event["args"]["correlation"]: event
        for event in complete
        if event.get("cat") in _LAUNCHES and "correlation" in event.get("args", {})
    }
    ranges, spans = _Ranges(complete), []
    for kernel in kernels:
        part = part_of(kernel["name"])
        launch = launches.get(kernel.get("args", {}).get("correlation"))
        # A collective of the optimizer or the head stays communication.
        if launch is not None and part != "communication":
            part = ranges.of(launch.get("tid"), launch["ts"]) or part
        spans.append(Span(kernel["ts"], kernel["ts"] + kernel["dur"], part, kernel["name"]))
    return spans


def _operator_spans(complete: list[dict[str, Any]], step: dict[str, Any]) -> list[Span]:
    """Stretches of a CPU's operators, each without what it called, of the thread of the steps.

    On a CPU the backward pass runs in the calling thread, so that one thread has it all.
    """
    thread = step.get("tid")
    operators = sorted(
        (
            e
            for e in complete
            if e.get("cat") in ("cpu_op", "user_annotation") and e.get("tid") == thread
        ),
        key=lambda e: (e["ts"], -e["dur"]),
    )
    spans: list[Span] = []
    stack: list[tuple[float, str | None, str, float]] = []  # end, part, name, told until

    def leave(until: float) -> None:
        while stack and stack[-1][0] <= until:
            end, part, name, told = stack.pop()
            if part and end > told:
                spans.append(Span(told, end, part, name))
            if stack:
                stack[-1] = (*stack[-1][:3], max(stack[-1][3], end))

    for event in operators:
        start, end, name = event["ts"], event["ts"] + event["dur"], event["name"]
        leave(start)
        if stack:
            outer_end, outer, outer_name, told = stack[-1]
            if outer and start > told:
                spans.append(Span(told, start, outer, outer_name))
            stack[-1] = (outer_end, outer, outer_name, max(told, start))
        stack.append((end, _operator_part(event, stack[-1][1] if stack else None), name, start))
    leave(float("inf"))
    return spans


def _operator_part(event: dict[str, Any], outer: str | None) -> str | None:
    """Of an operator inside another's part; None: of no part (the step itself)."""
    name = event["name"]
    if name in RANGES:
        return RANGES[name]
    if outer in RANGES.values():
        return outer
    if _HEAD_NODE.search(name):
        return "head"
    if event.get("cat") == "user_annotation":
        return outer
    told = part_of(name)
    # A library's operator calls plainer ones: what it is for, it alone tells.
    return outer if told == "elementwise" and outer in ("attention", "products") else told


def _owned(spans: list[Span], window: tuple[float, float]) -> tuple[dict[str, float], float]:
    """Seconds by part where each moment has one owner, and those of communication that is hidden."""
    edges: list[tuple[float, int, int]] = []
    for index, span in enumerate(spans):
        edges.append((max(span.start, window[0]), 1, index))
        edges.append((min(span.end, window[1]), 0, index))
    edges.sort()
    seconds = dict.fromkeys(PARTS, 0.0)
    active: set[int] = set()
    hidden, last = 0.0, window[0]
    for moment, begins, index in edges:
        if active and moment > last:
            owner = max(active, key=lambda i: (_RANK.get(spans[i].part, 2), -spans[i].start))
            part = spans[owner].part
            seconds[part] += (moment - last) * _MICRO
            if part != "communication" and any(spans[i].part == "communication" for i in active):
                hidden += (moment - last) * _MICRO
        last = max(last, moment)
        (active.add if begins else active.discard)(index)
    return seconds, hidden


def _idle_in_data(
    spans: list[Span], complete: list[dict[str, Any]], window: tuple[float, float]
) -> float:
    """Seconds in which no kernel runs and the process waits for the loader."""
    waits = [e for e in complete if e.get("name") == "kit.data" and _is_host(e)]
    busy = sorted((span.start, span.end) for span in spans)
    total = 0.0
    for wait in waits:
        begin, end = max(wait["ts"], window[0]), min(wait["ts"] + wait["dur"], window[1])
        covered = begin
        for start, stop in busy:
            if stop <= covered or start >= end:
                continue
            total += max(0.0, start - covered)
            covered = max(covered, stop)
        total += max(0.0, end - covered)
    return total * _MICRO


def _top(spans: list[Span], count: int) -> list[dict[str, Any]]:
    seconds: Counter[tuple[str, str]] = Counter()
    numbers: Counter[tuple[str, str]] = Counter()
    for span in spans:
        key = (span.name[:120], span.part)
        seconds[key] += (span.end - span.start) * _MICRO  # type: ignore[assignment]
        numbers[key] += 1
    return [
        {"name": name, "part": part, "seconds": value, "count": numbers[name, part]}
        for (name, part), value in seconds.most_common(count)
    ]
