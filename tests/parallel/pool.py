"""A pool of persistent worker processes for tests with several ranks.

Starting a process and importing megatron-core costs six seconds; the workers pay it once, or not at all
where they are forked from a process that has paid it (tests/warm.py). Each job gets a new process group
of the size it asks for (ranks 0..n-1 of the pool) over a new file store, so that jobs of any layout
follow one another in the same processes.

A job is a function of a test file, named by path and name: ``job(**arguments) -> result``. It calls
``megatron_dream.parallel.start`` for its layout. Results and arguments travel pickled.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.warm import ROOT, WarmProcess, WarmStarter, environment


class WorkerError(AssertionError):
    """A rank raised, died or did not answer in time; the message holds its traceback."""


class WorkerPool:
    """Up to ``size`` ranks, started when first needed, by ``warm`` if that is given."""

    def __init__(self, size: int = 4, warm: WarmStarter | None = None) -> None:
        self.size, self._warm = size, warm
        self._folder = tempfile.TemporaryDirectory(prefix="pool-")
        self._processes: list[subprocess.Popen[bytes] | WarmProcess] = []
        self._connections: list[Connection] = []
        self._jobs = 0

    def run(
        self, job: Callable[..., Any], world_size: int, timeout: float = 120.0, **arguments: Any
    ) -> list[Any]:
        """Run ``job`` on ranks 0..world_size-1 at once and return their results by rank."""
        self._start(world_size)
        self._jobs += 1
        store = str(Path(self._folder.name) / f"store-{self._jobs}")
        call = (job.__code__.co_filename, job.__name__, arguments)
        for rank in range(world_size):
            self._connections[rank].send((rank, world_size, store, *call))
        results, failure = [], None
        for rank in range(world_size):
            if not self._connections[rank].poll(timeout):
                failure = failure or f"rank {rank} gave no answer within {timeout} s"
                break
            try:
                ok, value = self._connections[rank].recv()
            except EOFError:
                failure = failure or f"rank {rank} died"
                break
            if not ok:
                failure = failure or f"rank {rank}:\n{value}"
                timeout = 5.0  # the others wait for this one in vain
            results.append(value)
        if failure:
            self.close()  # ranks may hang in a collective: the next job gets new ones
            raise WorkerError(failure)
        return results

    def _start(self, count: int) -> None:
        address = str(Path(self._folder.name) / "socket")
        while len(self._processes) < count:
            path = f"{address}-{self._jobs}-{len(self._processes)}"
            with Listener(path, "AF_UNIX") as listener:
                self._processes.append(self._process(path))
                self._connections.append(listener.accept())

    def _process(self, address: str) -> subprocess.Popen[bytes] | WarmProcess:
        if self._warm is not None:
            return self._warm.start(__file__, address)
        command = [sys.executable, __file__, address]
        return subprocess.Popen(command, cwd=ROOT, env=environment())

    def close(self) -> None:
        """Kill the workers; a later ``run`` starts new ones."""
        for process in self._processes:
            process.kill()
            process.wait()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []
        self._jobs += 1


def _load(path: str, modules: dict[str, ModuleType]) -> ModuleType:
    if path not in modules:
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        assert spec and spec.loader
        modules[path] = importlib.util.module_from_spec(spec)
        sys.modules[Path(path).stem] = modules[path]
        spec.loader.exec_module(modules[path])
    return modules[path]


def _serve(address: str) -> None:
    connection = Client(address, "AF_UNIX")
    import torch
    import torch.distributed as dist

    from megatron_dream import device, parallel

    torch.set_num_threads(1)
    device.import_megatron()
    modules: dict[str, ModuleType] = {}
    while True:
        try:
            rank, world_size, store, path, name, arguments = connection.recv()
        except EOFError:
            return
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
        try:
            file_store = dist.FileStore(store, world_size)
            dist.init_process_group("gloo", store=file_store, rank=rank, world_size=world_size)
            answer = (True, getattr(_load(path, modules), name)(**arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        if answer[0]:
            parallel.stop()
            gc.collect()  # models are cycles that hold groups, whose threads wake up for ever
        connection.send(answer)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    _serve(sys.argv[1])
