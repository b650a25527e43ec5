"""Preprocessing over MPI: rank 0 deals shards to the workers of every rank and merges at the end.

All ranks write into one folder of a shared file system; only shard numbers, counts and errors
travel. Rank 0 works too: its worker processes are apart from the process that deals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import DataError, MissingDependencyError, UserError
from .dealing import ListDealer
from .parts import PartRecord

T = TypeVar("T")
_REQUEST, _ANSWER, _REPORT, _FINISHED, _FAILED = range(1, 6)
_POLL_SECONDS = 0.01
_SIZE_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "SLURM_STEP_NUM_TASKS",
    "MV2_COMM_WORLD_SIZE",
)


def start_mpi() -> Any:
    """MPI's world.

    Raises:
        MissingDependencyError: mpi4py is not installed or finds no MPI.
        DataError: the launcher started several processes that do not know of one another.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            f"--mpi needs mpi4py and an MPI library ({error}); run pip install 'megatron-dream[mpi]'."
        ) from None
    world = MPI.COMM_WORLD
    started = {name: os.environ[name] for name in _SIZE_VARIABLES if name in os.environ}
    for name, count in started.items():
        if world.Get_size() == 1 and count.isdecimal() and int(count) > 1:
            raise DataError(
                f"{name} says that {count} processes were started, but MPI knows of this one only: the "
                f"launcher is of another MPI than mpi4py; start with that MPI's own mpirun, or with "
                f"srun --mpi=pmi2."
            )
    return world


def from_root(world: Any, make: Callable[[], T]) -> T:
    """What rank 0 makes, on every rank alike; without MPI what this process makes.

    Raises:
        UserError: the one that rank 0 met, on every rank.
    """
    if world is None:
        return make()
    made: T | None = None
    error: UserError | None = None
    if world.Get_rank() == 0:
        try:
            made = make()
        except UserError as problem:
            error = problem
    made, error = world.bcast((made, error), root=0)
    if error is not None:
        raise error
    return made


@dataclass
class RankCounts:
    """What one rank did."""

    shards: int = 0
    documents: int = 0
    tokens: int = 0


class MpiRoot:
    """Rank 0's side: a dealer for its own workers that serves the other ranks too.

    Args:
        world: MPI's.
        shards: what is to do, in order.
        report: told of what other ranks did.
        finished: told of their parts.
    """

    def __init__(
        self,
        world: Any,
        shards: list[int],
        report: Callable[[int, int, int], None],
        finished: Callable[[PartRecord], None],
    ) -> None:
        self.world, self._list = world, ListDealer(shards)
        self._report, self._finished = report, finished
        self.counts = [RankCounts() for _ in range(world.Get_size())]
        self._working = set(range(1, world.Get_size()))
        self._error: UserError | None = None

    def next(self) -> int | None:
        """The next shard for a worker of this rank."""
        return self._list.next()

    def count(self, rank: int, record: PartRecord) -> None:
        """Note a part that a rank finished."""
        counts = self.counts[rank]
        counts.shards += 1
        counts.documents += record.documents
        counts.tokens += record.tokens

    def listen(self) -> None:
        """Serve what other ranks sent; never waits."""
        from mpi4py import MPI

        status = MPI.Status()
        while self.world.Iprobe(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status):
            rank, tag = status.Get_source(), status.Get_tag()
            message = self.world.recv(source=rank, tag=tag)
            if tag == _REQUEST:
                shard = self._list.next()
                self.world.send(shard, dest=rank, tag=_ANSWER)
            elif tag == _REPORT:
                self._report(*message)
            elif isinstance(message, PartRecord):
                self.count(rank, message)
                self._finished(message)
            else:  # the rank is done, or failed
                self._working.discard(rank)
                if message is not None and self._error is None:
                    self.stop(message)

    def stop(self, error: UserError) -> None:
        """Give out nothing more; ``wait`` raises the error when all ranks have stopped."""
        self._error = error
        self._list.stop()

    def wait(self) -> None:
        """Serve until every other rank has stopped.

        Raises:
            UserError: what stopped one of them.
        """
        while self._working:
            self.listen()
            time.sleep(_POLL_SECONDS)
        if self._error is not None:
            raise self._error


class MpiRank:
    """Another rank's side: asks rank 0 for shards and tells it what came of them."""

    def __init__(self, world: Any) -> None:
        self.world = world

    def next(self) -> int | None:
        """The next shard for a worker of this rank."""
        self.world.send(None, dest=0, tag=_REQUEST)
        shard: int | None = self.world.recv(source=0, tag=_ANSWER)
        return shard

    def report(self, documents: int, tokens: int, num_bytes: int) -> None:
        """Tell rank 0 of progress."""
        self.world.send((documents, tokens, num_bytes), dest=0, tag=_REPORT)

    def finished(self, record: PartRecord) -> None:
        """Tell rank 0 of a part; filter counters stay in the part's record."""
        self.world.send(record, dest=0, tag=_FINISHED)

    def stopped(self, error: UserError | None) -> None:
        """Tell rank 0 that this rank's workers are done, or why they stopped."""
        self.world.send(error, dest=0, tag=_FAILED)


def wait_for_all(world: Any) -> None:
    """A barrier that leaves the cores to others while it waits."""
    request = world.Ibarrier()
    while not request.Test():
        time.sleep(_POLL_SECONDS)


def rank_table(counts: list[RankCounts]) -> str:
    """What each rank did, a line each."""
    return "\n".join(
        f"rank {rank}: {one.shards:,} shards, {one.documents:,} documents, {one.tokens:,} tokens"
        for rank, one in enumerate(counts)
    )
