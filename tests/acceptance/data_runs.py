"""Running the command, killing it, and comparing what it wrote: shared by the data checks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from data_corpora import ROOT

TOOL = ROOT / "tools" / "preprocess_data.py"
TOOL_SUFFIX = "_text_document"  # what Megatron-LM's name for the command appends to a prefix


@dataclass(frozen=True)
class Job:
    """What a command is asked for, whoever works on it.

    Attributes:
        inputs: words behind ``--input``.
        tokenizer: folder or ``.model`` file.
        flags: further words.
    """

    inputs: Sequence[str]
    tokenizer: Path
    flags: Sequence[str]

    def command(self, prefix: Path, workers: int = 1, *more: str) -> list[str]:
        """``megatron-dream preprocess``."""
        words = [sys.executable, "-m", "megatron_dream", "preprocess", "--input", *self.inputs]
        words += ["--output-prefix", str(prefix), "--tokenizer", str(self.tokenizer)]
        return [*words, "--workers", str(workers), *self.flags, *more]

    def mpi_command(self, prefix: Path, ranks: int, *more: str) -> list[str]:
        """The same over MPI by Megatron-LM's name for it; writes to the same prefix."""
        base = str(prefix).removesuffix(TOOL_SUFFIX)
        words = [mpirun(), "-n", str(ranks), sys.executable, str(TOOL), "--mpi", "--input"]
        words += [*self.inputs, "--output-prefix", base, "--tokenizer-model", str(self.tokenizer)]
        return [*words, *self.flags, *more]


def mpirun() -> str:
    """The launcher of this environment.

    Raises:
        SystemExit: there is none.
    """
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = shutil.which("mpirun", path=places)
    if found is None:
        raise SystemExit("no mpirun: pip install 'megatron-dream[mpi]'")
    return found


def environment() -> dict[str, str]:
    """For commands: this tree's package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def start(words: Sequence[str], log: IO[str]) -> subprocess.Popen[str]:
    """Begin a command in a process group and session of its own; what it prints goes to ``log``."""
    return subprocess.Popen(
        words,
        env=environment(),
        start_new_session=True,
        text=True,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


@contextlib.contextmanager
def started(words: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A command at work, and what tells its output so far; killed when the block ends."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = start(words, log)

        def output() -> str:
            log.seek(0)
            return log.read()

        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave nobody behind
        try:
            yield process, output
        finally:
            kill(process)
            signal.signal(signal.SIGTERM, before)


def run(words: Sequence[str], expected_code: int = 0) -> tuple[float, str]:
    """Run a command to its end; seconds and what it printed.

    Raises:
        SystemExit: it ended with another code.
    """
    began = time.perf_counter()
    with started(words) as (process, output):
        process.wait()
        seconds = time.perf_counter() - began
        check_code(process, output, expected_code)
        return seconds, output()


def check_code(
    process: subprocess.Popen[str], output: Callable[[], str], expected_code: int = 0
) -> None:
    """Make sure that a command that has ended did so with this code.

    Raises:
        SystemExit: with the end of what it printed.
    """
    if process.returncode != expected_code:
        words = " ".join(map(str, process.args))  # type: ignore[arg-type]
        raise SystemExit(f"exit code {process.returncode} of {words}:\n{output()[-3000:]}")


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the whole process group, and to what a launcher put into other groups."""
    with contextlib.suppress(psutil.NoSuchProcess):
        others = psutil.Process(process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for other in others:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
        psutil.wait_procs(others, timeout=30)
    process.wait()


def num_parts(prefix: Path) -> int:
    """Parts that are done."""
    folder = prefix.with_name(f"{prefix.name}.parts")
    return len(list(folder.glob("[0-9]*[0-9].json"))) if folder.is_dir() else 0


def output_prefixes(prefix: Path) -> list[Path]:
    """The files that a job wrote: one pair, or several numbered ones."""
    if prefix.with_name(f"{prefix.name}.idx").exists():
        return [prefix]
    found = sorted(prefix.parent.glob(f"{prefix.name}_[0-9][0-9][0-9][0-9][0-9].idx"))
    return [path.with_suffix("") for path in found]


def rejects(prefix: Path) -> list[tuple[str, int]]:
    """(file, line) of the records that were left out; line 0 where the file is the record."""
    path = prefix.with_name(f"{prefix.name}.rejects.jsonl")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [(entry["file"], entry.get("line", 0)) for entry in map(json.loads, lines)]


def digests(prefix: Path) -> dict[str, str]:
    """sha256 by file of all that a job wrote; of ``.json`` without its times."""
    found = {}
    for path in sorted(prefix.parent.iterdir()):
        content = path.read_bytes() if path.is_file() else b"a folder"
        if path.suffix == ".json":
            content = json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
        found[path.name] = hashlib.sha256(content).hexdigest()
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in ("seconds", "work_seconds")}
        return {k: _without_times(v) for k, v in kept.items()}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def same_file(first: str, second: str) -> bool:
    """Whether two files are equal."""
    return pieces_equal(_pieces([first]), _pieces([second]))


def same_when_joined(expected: str, parts: Sequence[str]) -> bool:
    """Whether a file is the others one after another."""
    return pieces_equal(_pieces([expected]), _pieces(parts))


def pieces_equal(first: Iterator[bytes], second: Iterator[bytes]) -> bool:
    """Whether two streams of bytes are equal, however they are cut."""
    left = right = b""
    while True:
        left, right = left or next(first, b""), right or next(second, b"")
        shared = min(len(left), len(right))
        if shared == 0:
            return not left and not right
        if left[:shared] != right[:shared]:
            return False
        left, right = left[shared:], right[shared:]


def _pieces(paths: Sequence[str]) -> Iterator[bytes]:
    for path in paths:
        with open(path, "rb") as stream:
            while piece := stream.read(1 << 22):
                yield piece
