"""A chain of filters with their counts, which add up over shards to the report of a whole run.

Counters are plain JSON values. What they keep of dropped documents are those with the lowest hash of
their id: the same whatever the shards and workers.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import DataError
from ..document import Document, document_hash
from .base import Filter

SAMPLES = 5  # dropped documents kept by each filter
EXCERPT_CHARACTERS = 200
_TABLE_REASONS = 8


@dataclass
class FilterCounter:
    """What one filter did.

    Attributes:
        seen: documents that came to it.
        changed: of these, with another text afterwards, and kept.
        dropped: of these, taken out.
        seconds: spent.
        reasons: dropped documents by reason.
        samples: ``[hash, id, reason, beginning]`` of dropped ones, by hash.
    """

    seen: int = 0
    changed: int = 0
    dropped: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[int, str, str, str]] = field(default_factory=list)

    def drop(
        self, document: Document, reason: str, redact: Callable[[str], str] = lambda text: text
    ) -> None:
        """Count a dropped document and keep it, redacted, if its hash is among the lowest."""
        self.dropped += 1
        self.reasons[reason] += 1
        number = document_hash(document.id, "sample")
        if len(self.samples) < SAMPLES or number < self.samples[-1][0]:
            excerpt = redact(document.text[: 10 * EXCERPT_CHARACTERS])[:EXCERPT_CHARACTERS]
            bisect.insort(
                self.samples, (number, _writable(document.id), reason, _writable(excerpt))
            )
            del self.samples[SAMPLES:]


class FilterChain:
    """Filters in their order. Empty is false."""

    def __init__(self, filters: Sequence[Filter] = ()) -> None:
        self.filters = tuple(filters)
        self._counters = [FilterCounter() for _ in self.filters]

    def __len__(self) -> int:
        return len(self.filters)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of a record that some filter needs, each once."""
        return tuple(dict.fromkeys(name for one in self.filters for name in one.fields))

    @property
    def decontaminated_against(self) -> list[str]:
        """Names of the evaluation sets that documents are compared with; none: not decontaminated."""
        return [name for one in self.filters for name in getattr(one, "evaluation_sets", ())]

    def apply(self, document: Document) -> str | None:
        """The reason of the first filter that drops the document; None where all keep it."""
        now = time.perf_counter()
        for one, counter in zip(self.filters, self._counters, strict=True):
            before = document.text
            reason = one.apply(document)
            started, now = now, time.perf_counter()
            counter.seen += 1
            counter.seconds += now - started
            if reason is not None:
                counter.drop(document, reason, self._redact)
                return reason
            if document.text is not before and document.text != before:
                counter.changed += 1
        return None

    def _redact(self, text: str) -> str:
        for one in self.filters:
            text = one.redact(text)
        return text

    def counters(self) -> dict[str, Any]:
        """What was counted since the start or the last ``take_counters``, as JSON values."""
        return {
            "filters": [
                _plain(one, counter)
                for one, counter in zip(self.filters, self._counters, strict=True)
            ],
            "decontaminated_against": self.decontaminated_against,
        }

    def take_counters(self) -> dict[str, Any]:
        """The counters, and all of them at 0 again: one chain serves a worker's shards in turn."""
        taken = self.counters()
        self._counters = [FilterCounter() for _ in self.filters]
        for one in self.filters:
            one.details = Counter()
        return taken

    def table(self) -> list[str]:
        """Lines of a closing report on what this chain counted."""
        return counters_table(self.counters())


def merge_counters(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up counters of chains of the same filters; empty records count nothing.

    Raises:
        DataError: the records are of different filters.
    """
    records = [record for record in records if record]
    if not records:
        return {}
    names = [[entry["name"] for entry in record["filters"]] for record in records]
    for others in names:
        if others != names[0]:
            raise DataError(
                f"Counters of the filters {others} cannot be added to those of {names[0]}; run with "
                "--overwrite to begin anew."
            )
    columns = zip(*(record["filters"] for record in records), strict=True)
    return {
        "filters": [_merge(entries) for entries in columns],
        "decontaminated_against": list(records[0]["decontaminated_against"]),
    }


def counters_table(counters: Mapping[str, Any]) -> list[str]:
    """Lines of a closing report: a row a filter, below it its reasons and details."""
    entries = counters.get("filters", [])
    if not entries:
        return []
    width = max(6, *(len(entry["name"]) for entry in entries))
    head = ("seen", "dropped", "share", "changed", "documents/s")
    lines = [f"{'filter':<{width}}" + "".join(f"{name:>13}" for name in head)]
    for entry in entries:
        lines.append(f"{entry['name']:<{width}}" + "".join(f"{cell:>13}" for cell in _cells(entry)))
        for reason, count in _most(entry["reasons"]):
            lines.append(f"  dropped {count:,}: {reason}")
        for detail, count in _most(entry["details"]):
            lines.append(f"  {detail}: {count:,}")
    against = counters["decontaminated_against"]
    lines.append(
        f"decontaminated against: {', '.join(against)}" if against else "not decontaminated"
    )
    return lines


def _writable(text: str) -> str:
    """Text that UTF-8 has bytes for: names of files and broken texts may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(one: Filter, counter: FilterCounter) -> dict[str, Any]:
    return {
        "name": one.name,
        "seen": counter.seen,
        "kept": counter.seen - counter.dropped,
        "changed": counter.changed,
        "dropped": counter.dropped,
        "seconds": round(counter.seconds, 6),
        "reasons": dict(sorted(counter.reasons.items())),
        "details": dict(sorted(one.details.items())),
        "samples": [list(sample) for sample in counter.samples],
    }


def _merge(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {"name": entries[0]["name"]}
    for key in ("seen", "kept", "changed", "dropped"):
        merged[key] = sum(entry[key] for entry in entries)
    merged["seconds"] = round(sum(entry["seconds"] for entry in entries), 6)
    for key in ("reasons", "details"):
        total: Counter[str] = Counter()
        for entry in entries:
            total.update(entry[key])
        merged[key] = dict(sorted(total.items()))
    samples = itertools.chain.from_iterable(entry["samples"] for entry in entries)
    merged["samples"] = sorted(samples)[:SAMPLES]
    return merged


def _cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    seen, dropped = entry["seen"], entry["dropped"]
    rate = f"{seen / entry['seconds']:,.0f}" if entry["seconds"] > 0 else "-"
    share = f"{dropped / seen:.2%}" if seen else "-"
    return (f"{seen:,}", f"{dropped:,}", share, f"{entry['changed']:,}", rate)


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first; what is beyond the table's room is one line."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ordered[:_TABLE_REASONS]
    if rest := ordered[_TABLE_REASONS:]:
        shown.append((f"({len(rest)} more)", sum(count for _, count in rest)))
    return shown
