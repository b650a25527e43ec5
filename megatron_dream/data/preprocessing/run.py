"""``preprocess``: text to token files. Plan the shards, have them worked on, put the parts together."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError, UserError
from ...files import remove_leftovers, write_json
from ..prefix import prefix_path
from ..progress import PreprocessProgress
from . import mpi as mpi_world
from .dealing import ListDealer, shards_of_part
from .job import Job, open_manifest
from .local_pool import LocalPool
from .merge import BackgroundConcatenation, Concatenation, publish
from .parts import PartRecord, finished_parts, sync_folder
from .report import PreprocessResult, completed_result, result_of, sidecars, write_rejects

_MIN_RECORDS = 1000  # below it a share of bad records says nothing
_WRITTEN = (".idx", ".json", ".rejects.jsonl")  # under temporary names at first


def run_job(
    job: Job,
    pool: LocalPool,
    *,
    part: str | None = None,
    world: Any = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> PreprocessResult | None:
    """Do what is left of a job, on this process's workers or on those of all MPI ranks.

    Args:
        job: what to do.
        pool: this process's workers.
        part: ``I/N``, one task of a job array: only its shards, and no merge.
        world: MPI's, to share the shards out over its ranks.
        overwrite: begin anew, whatever lies there.
        quiet: no progress.

    Returns:
        What was written, on rank 0; None where other tasks of an array are not done yet.

    Raises:
        DataError: outputs or parts of another job lie there, the disk is full, or too many records
            are bad.
    """
    run = _Run(job, pool, part, quiet)
    return run.over_mpi(world, overwrite) if world is not None else run.on_one_node(overwrite)


class _Run:
    """One process's share of a job."""

    def __init__(self, job: Job, pool: LocalPool, part: str | None, quiet: bool) -> None:
        self.job, self.pool, self.part, self.quiet = job, pool, part, quiet
        self.records: dict[int, PartRecord] = {}
        self.fresh: set[int] = set()  # written by this command, on this machine
        self.progress: PreprocessProgress | None = None
        self.merge: BackgroundConcatenation | None = None

    def on_one_node(self, overwrite: bool) -> PreprocessResult | None:
        if done := self._prepare(overwrite):
            return done
        with self._started_progress(), self._merging():
            todo = self._todo()
            if todo:
                self.pool.run(self.job, ListDealer(todo), self._report, self._finished_here)
            return self._finish()

    def over_mpi(self, world: Any, overwrite: bool) -> PreprocessResult | None:
        is_root = world.Get_rank() == 0
        ready = mpi_world.from_root(world, lambda: self._prepare(overwrite))
        if ready is not None:
            return ready if is_root else None
        result = None
        if is_root:
            result = self._as_root(world)
        else:
            self._as_rank(world)
        mpi_world.wait_for_all(world)
        return result

    def _as_root(self, world: Any) -> PreprocessResult | None:
        with self._started_progress():
            root = mpi_world.MpiRoot(world, self._todo(), self._report, self._finished)

            def finished(record: PartRecord) -> None:
                root.count(0, record)
                self._finished_here(record)

            try:
                self.pool.run(self.job, root, self._report, finished, root.listen)
            except UserError as error:
                root.stop(error)
            root.wait()
            if not self.quiet:
                print(mpi_world.rank_table(root.counts))
            return self._finish()

    def _as_rank(self, world: Any) -> None:
        rank = mpi_world.MpiRank(world)
        error: UserError | None = None
        try:
            self.pool.run(self.job, rank, rank.report, rank.finished)
        except UserError as problem:
            error = problem
        rank.stopped(error)

    def _prepare(self, overwrite: bool) -> PreprocessResult | None:
        """Make the folder of parts, or find that all is done."""
        job = self.job
        if overwrite:
            _remove(job)
        if done := completed_result(job):
            shutil.rmtree(job.parts, ignore_errors=True)  # a kill may have come just before that
            return done
        if prefix_path(job.prefix, ".bin").exists() and not job.parts.exists():
            raise DataError(
                f"{job.prefix}.bin exists and is of another run; give another prefix, or --overwrite to "
                f"replace it."
            )
        job.prefix.parent.mkdir(parents=True, exist_ok=True)
        open_manifest(job)
        return None

    def _todo(self) -> list[int]:
        todo = [n for n in range(len(self.job.shards)) if n not in self.records]
        return todo if self.part is None else shards_of_part(todo, self.part)

    def _started_progress(self) -> PreprocessProgress:
        self.records = finished_parts(self.job.parts, len(self.job.shards))
        done = sum(record.read_bytes for record in self.records.values())
        self.progress = PreprocessProgress(self.job.input_bytes, done_bytes=done)
        return self.progress

    @contextlib.contextmanager
    def _merging(self) -> Iterator[None]:
        """Put parts together while others are made, unless other tasks of an array make these."""
        if self.part is not None:
            yield
            return
        with BackgroundConcatenation(concatenation_of(self.job)) as self.merge:
            for record in self.records.values():
                self.merge.add(record, is_fresh=False)
            yield

    def _report(self, documents: int, tokens: int, num_bytes: int) -> None:
        if self.progress is not None and not self.quiet:
            self.progress.update(documents, tokens, num_bytes)

    def _finished_here(self, record: PartRecord) -> None:
        self.fresh.add(record.shard)
        self._finished(record)
        if self.merge is not None:
            self.merge.add(record, is_fresh=True)

    def _finished(self, record: PartRecord) -> None:
        self.records[record.shard] = record
        self._refuse_too_many_rejects()

    def _refuse_too_many_rejects(self) -> None:
        rejected = sum(record.rejected for record in self.records.values())
        total = sum(count for record in self.records.values() for _, count in record.pieces)
        if total >= _MIN_RECORDS and rejected > self.job.max_reject_share * total:
            named = write_rejects(self.job, self.records)
            raise DataError(
                f"{rejected} of {total} records are bad, more than --max-rejects "
                f"{self.job.max_reject_share:g} allows; see {named}, and mend the input or raise the "
                f"share: the parts that are done stay."
            )

    def _finish(self) -> PreprocessResult | None:
        """Put all parts together, if they are all there."""
        job = self.job
        if len(self.records) < len(job.shards):
            if self.part is None:
                raise DataError(f"{job.parts}: not all parts were made; run the command again.")
            print(
                f"{job.parts}: {len(self.records)} of {len(job.shards)} parts are done; when all are, run "
                f"the command without --part to put them together."
            )
            return None
        if self.part is not None:
            print(f"{job.parts}: all parts are done; run the command without --part.")
            return None
        ordered = [self.records[number] for number in range(len(job.shards))]
        if self.merge is not None:
            return publish_parts(job, ordered, self.merge)
        with concatenation_of(job) as whole:
            for record in ordered:
                whole.add(record, is_fresh=record.shard in self.fresh)
            return publish_parts(job, ordered, whole)


def concatenation_of(job: Job) -> Concatenation:
    """Of a job's parts; goes on where an earlier run was."""
    return Concatenation(job.parts, job.prefix, job.dtype.itemsize, job.max_file_bytes)


def publish_parts(
    job: Job,
    records: Sequence[PartRecord],
    concatenation: Concatenation | BackgroundConcatenation,
) -> PreprocessResult:
    """Make the outputs of all parts, which the concatenation was given, and remove the parts."""
    sync_folder(job.parts)
    outputs, lengths = concatenation.finish()
    if not outputs:
        named = write_rejects(job, dict(enumerate(records)))
        raise DataError(
            f"{job.files[0].path}: no document is left to write, {sum(r.rejected for r in records)} "
            f"records were bad{f' (named in {named})' if named else ''}, "
            f"{sum(r.dropped for r in records)} filtered out and {sum(r.empty for r in records)} empty; "
            f"check the files, --json-key and the filters."
        )
    write_rejects(job, dict(enumerate(records)))
    publish(outputs, lengths, job.dtype)
    result = result_of(job, records, outputs)
    described = list(zip(outputs, sidecars(job, records, outputs), strict=True))
    for output, sidecar in reversed(described):  # the first one, last, says that all are there
        write_json(prefix_path(output.prefix, ".json"), sidecar)
    remove_leftovers(prefix_path(o.prefix, ending) for o in outputs for ending in _WRITTEN)
    shutil.rmtree(job.parts)
    return result


def _remove(job: Job) -> None:
    """Remove what an earlier run left: parts, and outputs of this prefix."""
    shutil.rmtree(job.parts, ignore_errors=True)
    for found in (
        job.prefix,
        *Path(job.prefix.parent).glob(f"{job.prefix.name}_[0-9][0-9][0-9][0-9][0-9].idx"),
    ):
        prefix = found if found == job.prefix else found.with_suffix("")
        for ending in (".idx", ".json", ".bin", ".rejects.jsonl"):
            prefix_path(prefix, ending).unlink(missing_ok=True)
    for left in job.prefix.parent.glob(f".{job.prefix.name}.[0-9][0-9][0-9][0-9][0-9].bin.tmp"):
        left.unlink()
