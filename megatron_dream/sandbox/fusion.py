"""A client of SandboxFusion's HTTP interface, for sites that run one instead of our own sandbox.

``POST /run_code`` runs a program, ``POST /submit`` judges a completion of a data set that the service knows
(bytedance.github.io/SandboxFusion). Endpoints take turns; what is no answer of the program (no connection, a
5xx, ``SandboxError``) is asked again elsewhere after a pause that grows, and is infrastructure in the end.

Functions are judged in one process there, with the tests beside the candidate: a program that wants to
can fool it (docs/sandbox.md). Our own judge cannot be asked for that.
"""

from __future__ import annotations

import itertools
import json
import random
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .engine import Isolation, SandboxUnavailable
from .judge import Judge, Judging
from .outcome import Limits, Outcome, Verdict
from .problem import Problem
from .slot import same_output

_WORKERS = 8  # questions at once for each endpoint: the programs run elsewhere
_MAX_ANSWER = 16 << 20
# The program's names as module ``solution``, and the tests' functions called, as inside/checker.py does.
_BEFORE = """\
import sys as _sys, types as _types
_solution = _types.ModuleType("solution")
vars(_solution).update(globals())
_sys.modules["solution"] = _solution
_before = dict(globals())
"""
_AFTER = """\
for _name, _test in list(globals().items()):
    if _name.startswith("test") and isinstance(_test, _types.FunctionType):
        if _before.get(_name) is not _test:
            _test()
"""
_MEMORY_ERRORS = ("MemoryError", "std::bad_alloc")


class FusionError(RuntimeError):
    """No endpoint gave an answer."""


@dataclass(frozen=True)
class Run:
    """What a program did.

    Attributes:
        is_late: it was ended for its time.
        return_code: of the process; None where there is none.
        stdout: what it printed.
        stderr: what it complained of.
    """

    is_late: bool
    return_code: int | None
    stdout: str
    stderr: str


class FusionClient:
    """Asks one of several endpoints; may be used by many threads.

    Args:
        endpoints: addresses, such as ``http://host:8080``.
        attempts: for each question, over all endpoints.
        pause: seconds before the second attempt; doubled with each.
        limits: of each program; CPU seconds are its time there.
        sleep: what waits, for tests.

    Raises:
        ValueError: no endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        attempts: int = 5,
        pause: float = 0.5,
        limits: Limits | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not endpoints:
            raise ValueError(
                "give at least one endpoint of SandboxFusion, such as http://host:8080."
            )
        self._endpoints = itertools.cycle([endpoint.rstrip("/") for endpoint in endpoints])
        self._lock = threading.Lock()
        self.attempts, self.pause, self.limits, self._sleep = (
            attempts,
            pause,
            limits or Limits(),
            sleep,
        )

    def run_code(self, program: str, stdin: str = "") -> Run:
        """Run a Python program.

        Raises:
            FusionError: no endpoint could.
        """
        question = {
            "code": program,
            "language": "python",
            "stdin": stdin,
            "run_timeout": self.limits.cpu,
            "compile_timeout": self.limits.cpu,
            "memory_limit_MB": self.limits.memory >> 20,
        }
        result = self._ask("run_code", question, _is_run)["run_result"]
        return Run(
            result["status"] == "TimeLimitExceeded",
            result.get("return_code"),
            str(result.get("stdout") or ""),
            str(result.get("stderr") or ""),
        )

    def submit(
        self, dataset: str, task: str, completion: str, config: dict[str, Any] | None = None
    ) -> bool:
        """Whether a completion of a data set that the service knows is accepted.

        Raises:
            FusionError: no endpoint could tell.
        """
        question = {
            "dataset": dataset,
            "id": task,
            "completion": completion,
            "config": config or {},
        }
        answer = self._ask(
            "submit", question, lambda answer: isinstance(answer.get("accepted"), bool)
        )
        return bool(answer["accepted"])

    def judge(self, program: str, problem: Problem) -> Verdict:
        """As ``Slot.judge``, but see the first lines of this file."""
        try:
            if problem.kind == "stdin":
                return self._cases(program, problem)
            return self._function(program, problem)
        except FusionError as error:
            return Verdict(Outcome.INFRASTRUCTURE, detail=str(error))

    def _cases(self, program: str, problem: Problem) -> Verdict:
        for number, (given, wanted) in enumerate(problem.cases, 1):
            run = self.run_code(program, given)
            verdict = self._fault_of(run)
            if verdict is None and not same_output(run.stdout, wanted, problem):
                verdict = Verdict(Outcome.FAILED, detail=f"printed {run.stdout[:200]!r}")
            if verdict is not None:
                return Verdict(verdict.outcome, f"case {number}", verdict.detail)
        return Verdict(Outcome.PASSED)

    def _function(self, program: str, problem: Problem) -> Verdict:
        marker = secrets.token_hex(16)
        owner, _, name = problem.functions[0].rpartition(".")
        entry = f"{owner}().{name}" if owner else name
        call = f"check({entry})\n" if "def check(" in problem.tests else ""
        run = self.run_code(
            f"{program}\n\n{_BEFORE}\n{problem.tests}\n\n{call}{_AFTER}print('{marker}')\n"
        )
        verdict = self._fault_of(run)
        if verdict is None and run.stdout.rstrip().endswith(marker):
            return Verdict(Outcome.PASSED)
        return verdict or Verdict(Outcome.FAILED, detail="it left before the end of the tests")

    def _fault_of(self, run: Run) -> Verdict | None:
        last = run.stderr.strip().rsplit("\n", 1)[-1][:500]
        if run.is_late:
            return Verdict(Outcome.TIMEOUT, detail=f"more than {self.limits.cpu} s")
        if run.return_code:
            is_memory = last.startswith(_MEMORY_ERRORS)
            return Verdict(Outcome.MEMORY if is_memory else Outcome.FAILED, detail=last)
        if len(run.stdout) > self.limits.output:
            return Verdict(Outcome.OUTPUT_LIMIT, detail=f"more than {self.limits.output} bytes")
        return None

    def _ask(
        self, path: str, question: dict[str, Any], is_answer: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        data, reasons = json.dumps(question).encode(), []
        for attempt in range(self.attempts):
            if attempt:
                self._sleep(self.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            with self._lock:
                endpoint = next(self._endpoints)
            try:
                answer = self._post(f"{endpoint}/{path}", data)
                if is_answer(answer):
                    return answer
                reasons.append(
                    f"{endpoint}: {answer.get('message') or 'no answer to the question'}"[:200]
                )
            except urllib.error.HTTPError as error:
                reasons.append(f"{endpoint}: HTTP {error.code}")
                if error.code < 500 and error.code != 429:
                    break  # the question is wrong, and would be elsewhere
            except (OSError, ValueError) as error:
                reasons.append(f"{endpoint}: {error}"[:200])
        raise FusionError(f"SandboxFusion gave no answer ({'; '.join(reasons)})")

    def _post(self, url: str, data: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data, headers)
        seconds = 2 * self.limits.cpu + self.limits.wall
        with urllib.request.urlopen(request, timeout=seconds) as response:
            answer = json.loads(response.read(_MAX_ANSWER))
        if not isinstance(answer, dict):
            raise ValueError("the answer is no object")
        return answer


def _is_run(answer: dict[str, Any]) -> bool:
    """Whether a program was run: ``Failed`` tells of the program, ``SandboxError`` does not."""
    result = answer.get("run_result")
    known = ("Finished", "TimeLimitExceeded")
    return (
        answer.get("status") in ("Success", "Failed")
        and isinstance(result, dict)
        and result.get("status") in known
    )


class FusionJudge(Judging):
    """Judges programs by services instead of on this machine; see the first lines of this file.

    Args:
        endpoints: addresses.
        workers: programs at once; None: eight for each endpoint.
        limits: of each program.

    Raises:
        SandboxUnavailable: no endpoint runs a program.
    """

    def __init__(
        self, endpoints: Sequence[str], workers: int | None = None, limits: Limits | None = None
    ) -> None:
        super().__init__(workers or _WORKERS * len(endpoints), limits or Limits())
        self._client = FusionClient(endpoints, limits=self.limits)
        self.notice = (
            "Programs are judged by SandboxFusion, beside their tests: one that wants to can fool it "
            "(docs/sandbox.md)."
        )
        try:
            self._client.run_code("print(1)")
        except FusionError as error:
            self.close()
            raise SandboxUnavailable(str(error), is_denied=False) from None

    def _judge(self, program: str, problem: Problem) -> Verdict:
        return self._client.judge(program, problem)


def start_judge(
    workers: int | None,
    limits: Limits | None,
    isolation: Isolation | None,
    endpoints: Sequence[str] = (),
) -> Judging:
    """Our own judge, or where ``endpoints`` are given that of these services.

    Raises:
        ValueError: isolation, which is of this machine, and endpoints.
        SandboxUnavailable: programs cannot be judged so.
    """
    if not endpoints:
        return Judge(workers, limits, isolation)
    if isolation is not None:
        raise ValueError(
            f"isolation {isolation} is of this machine, but programs go to {endpoints[0]}; leave one away."
        )
    return FusionJudge(endpoints, workers, limits)
