"""The pass itself: sign all shards, merge bands, write the list. On this machine or over MPI.

Every step is cut into units that any process may do, in files that exist whole or not at all; so
the list does not depend on workers or ranks, and a pass that was killed goes on.
"""

from __future__ import annotations

import queue
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ...errors import DataError, UserError
from ..document import Document, Reject
from ..filters import FilterChain, FilterSpec, build_filters
from ..preprocessing.mpi import from_root, start_mpi
from ..progress import unit_progress
from ..readers import (
    SHARD_BYTES,
    Adapter,
    InputFile,
    Limits,
    Shard,
    check_adapter,
    list_inputs,
    plan_shards,
    read_shard,
)
from .drop_list import DropList, load_drop_list, write_drop_list
from .exact import Signer
from .groups import AllSignatures, ids_to_drop, write_pairs
from .signatures import FileOrder, SignatureRecord, begin_pass, read_record, write_signatures


@dataclass(frozen=True)
class PassSource:
    """One corpus of a pass.

    Attributes:
        name: in the recipe; empty where there is one corpus without a name.
        files: its inputs, in order.
        shards: planned of them.
        adapter: where the text is.
        filters: what documents pass first; what they drop is nobody's copy.
        limits: of what is read.
    """

    name: str
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    adapter: Adapter
    filters: tuple[FilterSpec, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def identity(self) -> dict[str, Any]:
        """What decides its documents, as plain values."""
        return {
            "name": self.name,
            "inputs": [file.identity() for file in self.files],
            "shards": len(self.shards),
            "adapter": self.adapter.identity(),
            "filters": [spec.identity() for spec in self.filters],
            "limits": self.limits.identity(),
        }


def pass_source(
    inputs: Sequence[Path | str],
    adapter: Adapter,
    *,
    name: str = "",
    suffixes: Sequence[str] | None = None,
    filters: Sequence[FilterSpec] = (),
    shard_bytes: int = SHARD_BYTES,
) -> PassSource:
    """List a corpus's inputs and cut them, as ``preprocess`` does: documents get the same ids.

    Args:
        inputs: files, folders, globs, ``@lists``, local or remote.
        adapter: where the text is.
        name: in the recipe.
        suffixes: which files of a folder count; default: the corpus's, or ``.py``.
        filters: what documents pass first; ``duplicates`` among them is left out.
        shard_bytes: of input, about, at a time.

    Raises:
        DataError: inputs that are missing or hold no text.
    """
    files = list_inputs([str(one) for one in inputs], suffixes or adapter.suffixes or (".py",))
    check_adapter(files, adapter, Limits())
    shards = tuple(plan_shards(files, shard_bytes))
    kept = tuple(spec for spec in filters if spec.name != "duplicates")
    return PassSource(name, tuple(files), shards, adapter, kept)


def find_duplicates(
    sources: Sequence[PassSource],
    folder: Path | str,
    make_signer: Callable[[], Signer],
    *,
    workers: int = 1,
    use_mpi: bool = False,
    quiet: bool = False,
) -> DropList | None:
    """Find documents that an earlier one makes needless, and list them for the filter ``duplicates``.

    Args:
        sources: in the order of preference: of copies, the one in the first source stays.
        folder: of the list; what is not finished lies in ``FOLDER.work`` beside it.
        make_signer: gives what documents are compared by; called in each process.
        workers: processes (of each rank).
        use_mpi: share the work out over MPI ranks.
        quiet: no progress.

    Returns:
        The list, on rank 0; None on others.

    Raises:
        UserError: bad input, a pass of something else begun in that folder, a disk that is full.
    """
    started = time.monotonic()
    world = start_mpi() if use_mpi else None
    search = _Search(tuple(sources), Path(folder), make_signer)
    begun = from_root(world, search.begin)
    ours = _Share(world, workers, quiet)
    ours.work("signing", [n for n in range(len(search.units)) if n not in begun], search.sign)
    ours.work("merging", range(len(search.signatures().slices())), search.merge)
    result = from_root(world, partial(search.finish, started, quiet))
    return load_drop_list(search.folder) if result and ours.rank == 0 else None


class _Search:
    """What is compared, and where the pass lies."""

    def __init__(
        self, sources: tuple[PassSource, ...], folder: Path, make_signer: Callable[[], Signer]
    ) -> None:
        self.sources, self.folder, self.make_signer = sources, folder, make_signer
        self.work_folder = folder.with_name(f"{folder.name}.work")
        self.units = [(s, n) for s, one in enumerate(sources) for n in range(len(one.shards))]
        self.order = FileOrder((one.name, file.name) for one in sources for file in one.files)

    @cached_property
    def signer(self) -> Signer:
        """Of this process."""
        return self.make_signer()

    @cached_property
    def filters(self) -> list[FilterChain]:
        """Of each source, of this process."""
        return [build_filters(source.filters) for source in self.sources]

    def __getstate__(self) -> dict[str, Any]:
        """Without what each process makes for itself."""
        return {k: v for k, v in self.__dict__.items() if k not in ("signer", "filters")}

    def identity(self) -> dict[str, Any]:
        """What decides the list."""
        sources = [source.identity() for source in self.sources]
        return {"version": 1, "signer": self.signer.identity(), "sources": sources}

    def begin(self) -> set[int]:
        """Make or check the folder of work; shards that are signed already."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        begin_pass(self.work_folder, self.identity())
        return {n for n in range(len(self.units)) if read_record(self.work_folder, n)}

    def sign(self, unit: int) -> None:
        """Sign one shard."""
        write_signatures([unit], self._documents, self.work_folder, self.signer, self.order)

    def _documents(self, unit: int) -> Iterator[Document]:
        """A shard's documents that pass the filters; bad records are preprocessing's to report."""
        number, shard = self.units[unit]
        source, filters = self.sources[number], self.filters[number]
        outcomes = read_shard(
            source.shards[shard],
            source.files,
            source.adapter,
            source.limits,
            filters.fields,
            source=source.name,
        )
        for outcome in outcomes:
            if isinstance(outcome, Reject) or (filters and filters.apply(outcome) is not None):
                continue
            yield outcome

    def signatures(self) -> AllSignatures:
        """Of all shards, which must be signed."""
        return AllSignatures(self.work_folder, self._records())

    def _records(self) -> list[SignatureRecord]:
        records = [read_record(self.work_folder, unit) for unit in range(len(self.units))]
        if missing := records.count(None):
            raise DataError(
                f"{self.work_folder} lacks {missing} of {len(records)} shards; every rank must see the "
                f"same folder, on a shared file system."
            )
        return [record for record in records if record is not None]

    def merge(self, unit: int) -> None:
        """Find the pairs of one slice of keys."""
        write_pairs(self.signatures(), unit, self.work_folder)

    def finish(self, started: float, quiet: bool) -> bool:
        """Write the list and remove the work."""
        records = self._records()
        ids, num_groups = ids_to_drop(AllSignatures(self.work_folder, records), self.work_folder)
        counts = {
            "read": sum(record.documents for record in records),
            "empty": sum(record.empty for record in records),
            "not_compared": sum(r.documents - r.signed - r.empty for r in records),
            "groups": num_groups,
        }
        found = write_drop_list(self.folder, ids, {**counts, **self.identity()})
        shutil.rmtree(self.work_folder)
        if not quiet:
            share = len(found) / max(counts["read"], 1)
            print(
                f"{self.folder}: {len(found):,} of {counts['read']:,} documents ({share:.2%}) are copies "
                f"in {num_groups:,} groups; {time.monotonic() - started:,.1f} s"
            )
        return True


class _Share:
    """This process's share of units of work, done by worker processes."""

    def __init__(self, world: Any, workers: int, quiet: bool) -> None:
        self.world, self.workers = world, workers
        self.rank = world.Get_rank() if world is not None else 0
        self.size = world.Get_size() if world is not None else 1
        self.quiet = quiet or self.rank != 0

    def work(self, name: str, units: Iterable[int], do: Callable[[int], None]) -> None:
        """Do every rank's units; when it returns, all ranks are done.

        Raises:
            UserError: the first one of any process, on every rank.
        """
        error: UserError | None = None
        try:
            self._run(name, list(units)[self.rank :: self.size], do)
        except UserError as problem:
            error = problem
        errors = [error] if self.world is None else self.world.allgather(error)
        met = [one for one in errors if one is not None]
        if met:
            raise met[0]

    def _run(self, name: str, units: list[int], do: Callable[[int], None]) -> None:
        with unit_progress(name, len(units), quiet=self.quiet) as advance:
            if self.workers == 1 or len(units) < 2:
                for unit in units:
                    do(unit)
                    advance()
                return
            for _ in done_by_workers(units, do, min(self.workers, len(units))):
                advance()


def done_by_workers(units: Sequence[int], do: Callable[[int], None], workers: int) -> Iterator[int]:
    """Have units done by processes, each taking the next one when it is free; yields those done.

    Raises:
        UserError: the first one of a unit; the others end with the unit they are at.
    """
    context = get_context("spawn")  # not forked: this process may be inside MPI
    todo, done = context.SimpleQueue(), context.Queue()
    processes = [context.Process(target=_serve, args=(do, todo, done)) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        for unit in [*units, *[None] * workers]:
            todo.put(unit)
        for _ in units:
            unit, error = _next_answer(done, processes)
            if error is not None:
                raise error
            yield unit
    finally:
        for process in processes:
            process.terminate()  # units are files that are whole or not there
            process.join()


def _serve(do: Callable[[int], None], todo: Any, done: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    while (unit := todo.get()) is not None:
        try:
            do(unit)
            done.put((unit, None))
        except UserError as error:
            done.put((unit, error))
        except OSError as error:
            where = error.filename or "the folder of the pass"
            done.put((unit, DataError(f"{where}: {error.strerror or error}; mend it and go on.")))
        except Exception:  # a bug: its trace must reach the terminal
            done.put((unit, RuntimeError(traceback.format_exc())))


def _next_answer(done: Any, processes: Sequence[Any]) -> tuple[int, Exception | None]:
    while True:
        try:
            answer: tuple[int, Exception | None] = done.get(timeout=1.0)
            return answer
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise DataError(
                    "a worker process died, most likely for want of memory; run the same command again "
                    "with fewer --workers: it goes on."
                ) from None
