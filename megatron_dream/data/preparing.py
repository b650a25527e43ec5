"""What preparations for the sft stage share: parts by workers, their merge, files that get their names last.

Two build on it, ``prepare-sft`` (data/sft) and ``prepare-infill`` (data/infilling). Killed and called again a
preparation goes on with the parts that are there.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, TypeVar

from ..errors import DataError
from ..files import remove_leftovers, write_json
from .duplicates.find import done_by_workers
from .prefix import prefix_path
from .prepared import Prepared, RuleCount, nothing_left, place_of, result_of, valid_prefix
from .preprocessing.job import MANIFEST
from .preprocessing.parts import PartRecord, check_part, finished_parts, part_path, read_part
from .progress import PreprocessProgress
from .sequence_writer import SequenceWriter

W = TypeVar("W", bound=SequenceWriter)
_ENDINGS = (".idx", ".json", ".bin", ".dropped.jsonl", ".rejects.jsonl")


class PartsMerge(ABC, Generic[W]):
    """Takes parts in shard order, and notes what was left out with its place.

    Only this process sees everything, so that copies are found here; which of two stays does not depend
    on the workers.

    Args:
        job: what the parts are of.
        train: where samples go.
        valid: where those of the validation share go; None: there are none.
        dropped: JSON lines of what rules dropped.
        rejects: JSON lines of broken records.
        rules: names of the rules that are applied.

    Attributes:
        rules: counts by rule.
        rejected: broken records.
        num_records: read, blank lines included.
    """

    def __init__(
        self,
        job: Any,
        train: W,
        valid: W | None,
        dropped: IO[str],
        rejects: IO[str],
        rules: Iterable[str],
    ) -> None:
        self.job, self.train, self.valid = job, train, valid
        self.dropped, self.rejects = dropped, rejects
        self.rules = {name: RuleCount() for name in rules}
        self.rejected = RuleCount()
        self.num_records = 0
        self._passed: Counter[int] = Counter()  # records of each file in the shards before

    @abstractmethod
    def copies(self, record: PartRecord) -> Iterator[dict[str, Any]]:
        """Write the part's samples; yields those that are copies of earlier ones, in order."""

    @abstractmethod
    def shown(self, event: dict[str, Any]) -> dict[str, Any]:
        """What the sidecar shows of a dropped sample."""

    def add(self, record: PartRecord) -> None:
        """Append the next part.

        Raises:
            DataError: the part is missing or altered.
        """
        starts = []
        for file, count in record.pieces:
            starts.append((file, self._passed[file]))
            self._passed[file] += count
            self.num_records += count
        events = heapq.merge(
            self._events(record), self.copies(record), key=lambda e: (e["piece"], e["record"])
        )
        for event in events:  # reading them all also writes the samples, in copies
            file, before = starts[event.pop("piece")]
            self._note(self._place(file, before + event.pop("record")), event)

    def _place(self, file: int, number: int) -> dict[str, Any]:
        """Lines are counted from 1, rows of tables from 0, as preprocess does."""
        found = self.job.files[file]
        is_lines = found.format not in ("parquet", "arrow")
        return {"file": found.path, "line" if is_lines else "row": number + is_lines}

    def _note(self, place: dict[str, Any], event: dict[str, Any]) -> None:
        if "rule" not in event:
            self.rejected.add(event["reason"], lambda: {**place, **event})
            self.rejects.write(json.dumps({**place, **event}) + "\n")
            return
        rule, detail = event["rule"], event["detail"]
        self.rules[rule].add(detail, lambda: {**place, **self.shown(event)})
        self.dropped.write(json.dumps({**place, "rule": rule, "detail": detail}) + "\n")

    def _events(self, record: PartRecord) -> Iterator[dict[str, Any]]:
        """What the worker noted: dropped samples and broken records."""
        if not record.rejected and not record.dropped:
            return
        check_part(self.job.parts, record, ".rejects.jsonl")
        path = part_path(self.job.parts, record.shard, ".rejects.jsonl")
        with open(path, encoding="utf-8") as stream:
            yield from map(json.loads, stream)


class PrepareRun(ABC):
    """One preparation.

    Args:
        job: what it is of.
        max_rejects: share of records that may be broken.
        overwrite: whether files of another run may be replaced.
        quiet: show no progress.
    """

    kind: ClassVar[str]  # of ``P.json`` and of the parts' manifest
    noun: ClassVar[str]  # what it prepares
    flags: ClassVar[str]  # that decide what is left

    def __init__(self, job: Any, max_rejects: float, *, overwrite: bool, quiet: bool) -> None:
        self.job, self.max_rejects = job, max_rejects
        self.overwrite, self.quiet = overwrite, quiet

    @abstractmethod
    def writer(self, prefix: Path) -> Any:
        """A context that grows one of the output files."""

    @abstractmethod
    def merge_of(
        self, train: Any, valid: Any, dropped: IO[str], rejects: IO[str]
    ) -> PartsMerge[Any]:
        """What takes the parts in, in order."""

    @abstractmethod
    def sidecar(self, merge: Any, side: Any) -> dict[str, Any]:
        """``P.json`` of one of the files."""

    def run(self, workers: int) -> Prepared:
        """Make the parts that are missing and put all together."""
        job = self.job
        if self.overwrite or not _is_begun(job):
            self._begin()
        with contextlib.ExitStack() as stack:
            train = stack.enter_context(self.writer(job.prefix))
            valid = None
            if job.valid_share:
                valid = stack.enter_context(self.writer(valid_prefix(job.prefix)))
            dropped, rejects = (stack.enter_context(self._lines(n)) for n in ("dropped", "rejects"))
            merge = self.merge_of(train, valid, dropped, rejects)
            self._work(merge, workers)
            for stream in (dropped, rejects):
                stream.flush()
                os.fsync(stream.fileno())
            self._refuse(merge)
            return self._publish(merge)

    def _begin(self) -> None:
        """Make the folder of parts; those of another preparation go."""
        job = self.job
        there = [path for path in outputs_of(job.prefix) if path.suffix != ".jsonl"]
        if not self.overwrite and any(path.exists() for path in there):
            raise DataError(
                f"{job.prefix}.bin exists and is of another run; give another prefix, or --overwrite to "
                "replace it."
            )
        if job.parts.exists():
            if _manifest(job).get("kind") != self.kind and any(job.parts.iterdir()):
                raise DataError(
                    f"{job.parts} is of something else; give another prefix or remove it."
                )
            shutil.rmtree(job.parts)
        job.parts.mkdir(parents=True)
        write_json(job.parts / MANIFEST, job.identity())

    def _lines(self, name: str) -> IO[str]:
        return open(self.job.parts / f"{name}.jsonl", "w", encoding="utf-8")

    def _work(self, merge: PartsMerge[Any], workers: int) -> None:
        """Have parts made, and take them in as soon as all before them are there."""
        job = self.job
        there = finished_parts(job.parts, len(job.shards))
        todo = [n for n in range(len(job.shards)) if n not in there]
        done = sum(record.read_bytes for record in there.values())
        progress = PreprocessProgress(sum(file.size for file in job.files), done_bytes=done)
        with contextlib.nullcontext() if self.quiet else progress:
            following = self._take(merge, there, 0)
            for number in _made(job, todo, workers):
                record = read_part(job.parts, number)
                assert record is not None
                there[number] = record
                if not self.quiet:
                    progress.update(record.documents, record.tokens, record.read_bytes)
                following = self._take(merge, there, following)

    def _take(self, merge: PartsMerge[Any], there: dict[int, PartRecord], following: int) -> int:
        """Merge the parts that are next; returns the number of the first that is not there."""
        while (record := there.pop(following, None)) is not None:
            merge.add(record)
            following += 1
            if not self.max_rejects:
                self._refuse(merge)
        return following

    def _refuse(self, merge: PartsMerge[Any]) -> None:
        """End the run where too many records are broken; they stay named in ``P.rejects.jsonl``."""
        broken, total = merge.rejected, merge.num_records
        if broken.count <= self.max_rejects * total:
            return
        named = prefix_path(self.job.prefix, ".rejects.jsonl")
        merge.rejects.flush()
        shutil.copyfile(self.job.parts / "rejects.jsonl", named)
        raise DataError(
            f"{place_of(broken.examples[0])}: {broken.examples[0]['reason']}; {broken.count:,} of "
            f"{total:,} records are broken, more than --max-rejects {self.max_rejects:g} allows: see "
            f"{named}, and mend them or raise the share: the parts that are done stay."
        )

    def _publish(self, merge: PartsMerge[Any]) -> Prepared:
        """Give the files their names; those of an earlier run go just before."""
        job, sides = self.job, [side for side in (merge.valid, merge.train) if side is not None]
        for side in sides:
            if not side.num_samples:
                is_valid = side is merge.valid
                raise DataError(nothing_left(merge, is_valid, self.noun, self.flags))
        for path in outputs_of(job.prefix):
            path.unlink(missing_ok=True)
        num_dropped = sum(found.count for found in merge.rules.values())
        for name, count in (("dropped", num_dropped), ("rejects", merge.rejected.count)):
            if count:
                os.replace(job.parts / f"{name}.jsonl", prefix_path(job.prefix, f".{name}.jsonl"))
        for side in sides:
            side.publish()
        for side in sides:  # the training file's, last, says that all are there
            write_json(prefix_path(side.prefix, ".json"), self.sidecar(merge, side))
        remove_leftovers(outputs_of(job.prefix))
        shutil.rmtree(job.parts)
        return result_of(json.loads(prefix_path(job.prefix, ".json").read_text("utf-8")), job)


def _made(job: Any, todo: Sequence[int], workers: int) -> Iterator[int]:
    """Make parts; yields the number of each when it is there."""
    if workers > 1 and len(todo) > 1:
        yield from done_by_workers(todo, job.run, min(workers, len(todo)))
        return
    for number in todo:
        job.run(number)
        yield number


def _manifest(job: Any) -> dict[str, Any]:
    """What the parts that are there are of; empty where that cannot be told."""
    try:
        found = json.loads((job.parts / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_begun(job: Any) -> bool:
    """Whether parts of this very job are there; a kill may have come while files got their names."""
    return _manifest(job) == json.loads(json.dumps(job.identity()))


def outputs_of(prefix: Path) -> list[Path]:
    """Every file that a preparation may write."""
    return [
        prefix_path(one, ending) for one in (prefix, valid_prefix(prefix)) for ending in _ENDINGS
    ]
