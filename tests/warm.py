"""Processes forked from one that has imported torch and megatron-core.

A process of its own spends six seconds on these imports, more than most commands of a test then work. A
forked one runs its module from the first line to the interpreter's end: exit codes, signals and what
is written at exit are those of ``python -m``. What only a cold start can show (a verb that does not import
what it needs) is shown by the tests of the quickstart, torchrun and the server, which begin cold.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
# torch._dynamo: torch's optimizers import it when one is made.
IMPORTED = ("megatron_dream.training.run", "megatron_dream.hf", "torch._dynamo")


def environment() -> dict[str, str]:
    """Of test processes: this checkout's package, the CPU (no fork can use CUDA), one thread, no warnings."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "MEGATRON_DREAM_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


class WarmProcess:
    """A forked process, with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, pid: int, starter: Connection) -> None:
        self.pid, self._starter = pid, starter
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self._starter.send(self.pid)
            self.returncode = self._starter.recv()
        return self.returncode

    def wait(self, seconds: float = 500) -> int:
        """Exit code; what runs longer is killed."""
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired(str(self.pid), seconds)
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        """SIGKILL. Until ``poll`` has told its end it keeps its pid, so no other process is hit."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class WarmStarter:
    """The process that others are forked from; it ends with this one's connection."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, env=environment(), cwd=ROOT, pass_fds=[theirs.fileno()]
        )
        theirs.close()  # so that a starter that dies is noticed

    def start(
        self,
        module: str,
        *words: str,
        output: Path | str | None = None,
        errors: Path | str | None = None,
    ) -> WarmProcess:
        """Begin ``python -m MODULE WORDS``, or a script where MODULE ends with ``.py``.

        ``output``, ``errors``: files for the standard streams; None leaves the starter's.
        """
        files = [None if file is None else str(file) for file in (output, errors)]
        self._connection.send((module, words, files))
        return WarmProcess(self._connection.recv(), self._connection)

    def run(self, module: str, *words: str) -> subprocess.CompletedProcess[str]:
        """The same to its end, with what it wrote."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
            output, errors = Path(name, "output"), Path(name, "errors")
            code = self.start(module, *words, output=output, errors=errors).wait()
            return subprocess.CompletedProcess(words, code, output.read_text(), errors.read_text())

    def run_code(self, code: str, *words: str) -> subprocess.CompletedProcess[str]:
        """``python -c CODE WORDS`` to its end."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
            script = Path(name, "script.py")
            script.write_text(code)
            return self.run(str(script), *words)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def _become(module: str, words: tuple[str, ...], files: list[str | None]) -> NoReturn:
    """In the forked process: be the program, in a process group of its own."""
    os.setpgid(0, 0)
    # As in a terminal: a shell that starts the tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, start=1):
        if file is not None:
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.argv = [module, *words]
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def _ended(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def _serve(descriptor: int) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    sys.modules["megatron_dream.device"].import_megatron()
    # A fork takes one thread along; another could hold a lock that nobody opens again.
    assert len(os.listdir("/proc/self/task")) == 1
    gc.collect()
    gc.freeze()  # what stays for ever is not looked through in every collection of every fork
    with Connection(descriptor) as connection:
        while True:
            try:
                asked = connection.recv()
            except EOFError:
                return
            if isinstance(asked, int):
                connection.send(_ended(asked))
            elif (pid := os.fork()) == 0:
                connection.close()
                _become(*asked)
            else:
                connection.send(pid)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
