"""Runs cases one after another, each in processes of its own, within a budget of time, resumably.

A case's result is a file as soon as it ends, under a key of everything that it depends on: a second call runs
what is missing. A case that runs out of memory tries its next attempt and is a row at last; a case that the
budget leaves no time for says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_dream.files import write_json

from . import machine, one

ROOT = Path(__file__).resolve().parents[2]
TIMED_OUT, NOT_RUN = "timed out", "not run"
FINAL = (one.OK, one.OUT_OF_MEMORY, one.SKIPPED, one.REFUSED)  # not run again by a later call
_STOP_SECONDS = 10


@dataclass(frozen=True)
class Case:
    """One row of a report.

    Attributes:
        name: unique; also the name of its file.
        job: ``module:function`` of this folder.
        arguments: of the function, plain values.
        processes: that run it together, one a GPU.
        seconds: that it may take.
        attempts: changes of ``arguments["fields"]`` to try in turn where memory runs out; the first is
            what is wanted.
    """

    name: str
    job: str
    arguments: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    seconds: float = 420.0
    attempts: tuple[dict[str, Any], ...] = ({},)

    def spec(self, attempt: dict[str, Any]) -> dict[str, Any]:
        """What ``one.py`` reads."""
        arguments = dict(self.arguments)
        if attempt:
            arguments["fields"] = {**arguments["fields"], **attempt}
        return {"job": self.job, "arguments": arguments}


class Runner:
    """Runs cases and keeps their results.

    Args:
        folder: of results; made if need be.
        commit: of the tree; other trees' results are not taken.
        budget_seconds: for all cases together; 0: no bound.
        here: run cases of one process in this one: nothing starts, nothing protects from a case that
            breaks it.
        say: for a person.
    """

    def __init__(
        self,
        folder: Path,
        commit: str,
        *,
        budget_seconds: float = 0.0,
        here: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.commit, self.here, self.say = folder, commit, here, say
        self.end = time.monotonic() + budget_seconds if budget_seconds else float("inf")
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, case: Case) -> dict[str, Any]:
        """The result of a case, of this call or of an earlier one."""
        path = self.folder / f"{case.name}.json"
        key = self._key(case)
        known = _read(path)
        if known.get("key") == key and known.get("status") in FINAL:
            self.say(f"{case.name}: {known['status']}, known from an earlier call")
            return known
        found = self._attempts(case)
        found = {"name": case.name, "key": key, "processes": case.processes, **found}
        if found["status"] != NOT_RUN:
            write_json(path, found)
        detail = found.get("detail")
        why = f" ({detail.strip().splitlines()[-1][:160]})" if isinstance(detail, str) else ""
        self.say(f"{case.name}: {found['status']}{why}, {found.get('case_seconds', 0):.0f} s")
        return found

    def _key(self, case: Case) -> str:
        text = json.dumps(
            [
                case.job,
                case.arguments,
                case.processes,
                case.attempts,
                self.commit,
                machine.identity(),
            ],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def _attempts(self, case: Case) -> dict[str, Any]:
        """The first attempt that does not run out of memory; the others' words in ``tried``."""
        tried: list[str] = []
        found: dict[str, Any] = {}
        for attempt in case.attempts:
            left = self.end - time.monotonic()
            if left < min(30.0, case.seconds):
                if not tried:
                    return {"status": NOT_RUN, "detail": "the time budget was spent; call again"}
                break
            before, began = machine.clocks(), time.monotonic()
            found = self._once(case, case.spec(attempt), min(case.seconds, left))
            found["case_seconds"] = round(time.monotonic() - began, 1)
            found["clocks"] = {"before": before, "after": machine.clocks()}
            if found["status"] != one.OUT_OF_MEMORY:
                break
            tried.append(f"{_words(attempt)}: {found['detail']}")
        return {**found, "tried": tried}

    def _once(self, case: Case, spec: dict[str, Any], seconds: float) -> dict[str, Any]:
        if self.here and case.processes == 1:
            # Through JSON as between processes, so that both ways give the same.
            found: dict[str, Any] = json.loads(json.dumps(one.run(json.loads(json.dumps(spec)))))
            return found
        out = self.folder / f".{case.name}.out.json"
        spec_file = self.folder / f".{case.name}.spec.json"
        for left in self.folder.glob(f".{case.name}.out*.json"):
            left.unlink()
        write_json(spec_file, spec)
        log = self.folder / f"{case.name}.log"
        with open(log, "w", encoding="utf-8") as stream:
            code = _call(command(case.processes, spec_file, out), stream, seconds)
        found = _ended(out, code, log, case.processes, seconds)
        for left in self.folder.glob(f".{case.name}.*.json"):
            left.unlink()
        return found


def command(processes: int, spec: Path, out: Path) -> list[str]:
    """What starts a case."""
    module = ["-m", "benchmarks.gpu_kit.one", str(spec), str(out)]
    if processes == 1:
        return [sys.executable, *module]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return [sys.executable, *launcher, *meeting, *module]


def _call(words: list[str], log: Any, seconds: float) -> int | None:
    """Exit code; None where the time was over and the whole process group was ended."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        # Widths differ between attempts: without it gaps in the allocator look like missing memory.
        "PYTORCH_CUDA_ALLOC_CONF": os.environ.get(
            "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"
        ),
    }
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a case's processes, which are a session of their own."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(timeout=_STOP_SECONDS)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _ended(
    out: Path, code: int | None, log: Path, processes: int, seconds: float
) -> dict[str, Any]:
    """How a case ended, from what its processes left."""
    if code is None:
        return {"status": TIMED_OUT, "detail": f"not done after {seconds:.0f} s; see {log.name}"}
    answers = [_read(out)]
    answers += [_read(one.rank_file(out, rank)) for rank in range(1, processes)]
    bad = [answer for answer in answers if answer and answer["status"] not in (one.OK, one.SKIPPED)]
    # One process that runs out of memory makes the others fail otherwise.
    for answer in bad:
        if answer["status"] == one.OUT_OF_MEMORY:
            return answer
    if bad:
        return bad[0]
    if answers[0] and code == 0:
        return answers[0]
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return {
            "status": one.OUT_OF_MEMORY,
            "detail": "killed from outside: the host's memory, probably",
        }
    tail = log.read_text(encoding="utf-8", errors="replace")[-1500:]
    return {"status": one.FAILED, "detail": f"exit code {code}\n{tail}"}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(attempt: dict[str, Any]) -> str:
    return (
        ", ".join(f"{name.split('.')[-1]} {value}" for name, value in attempt.items())
        or "as planned"
    )
