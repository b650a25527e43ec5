"""Two fork servers side by side, one for candidates and one for tests, and what passes between them.

The supervisor's part: it runs no foreign code, reads from the sandbox small messages only, and tells the
outcome from the verdict of the tests and from how the processes ended.
"""

from __future__ import annotations

import contextlib
import decimal
import json
import os
import select
import signal
import time
from typing import Any

from .engine import Isolation, Role, SandboxUnavailable, Server, ServerLost
from .outcome import Limits, Outcome, Verdict
from .problem import Problem, helpers_of

_REAPING_SECONDS = 30.0  # for a killed program to be gone, on a machine that is busy
_MAX_VERDICT = 16_384
_ROLES: tuple[Role, ...] = ("candidate", "tests")


class Slot:
    """Judges one program at a time.

    Args:
        isolation: see ``Judge``.
        limits: of each program.

    Raises:
        SandboxUnavailable: see ``Server``.
    """

    def __init__(self, isolation: Isolation, limits: Limits) -> None:
        self.limits, self.isolation = limits, isolation
        self._servers: dict[Role, Server] = {}
        try:
            for role in _ROLES:
                self._server(role)
        except BaseException:
            self.close()
            raise

    def _server(self, role: Role) -> Server:
        if role not in self._servers:
            self._servers[role] = Server(self.isolation, role, self.limits)
        return self._servers[role]

    def close(self) -> None:
        """End both servers."""
        for role in list(self._servers):
            self._servers.pop(role).close()

    def judge(self, program: str, problem: Problem) -> Verdict:
        """Run a program against its problem's tests; whatever goes wrong here is infrastructure."""
        try:
            text = program.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            detail = f"it is no text in UTF-8 ({error.reason})"
            return Verdict(Outcome.FAILED, "loading the program", detail)
        try:
            if problem.kind == "function":
                return self._call(text, problem)
            return self._run(text, problem)
        except Exception as error:
            self.close()  # what its processes do is not known; both begin anew with the next program
            detail = str(error)
            if not isinstance(error, (ServerLost, SandboxUnavailable)):
                detail = f"{type(error).__name__}: {detail}"
            return Verdict(Outcome.INFRASTRUCTURE, detail=detail)

    def _call(self, program: bytes, problem: Problem) -> Verdict:
        candidate, tests = self._server("candidate"), self._server("tests")
        material = {
            "helpers": helpers_of(problem),
            "tests": problem.tests,
            "functions": list(problem.functions),
        }
        with contextlib.ExitStack() as stack:
            held = _Held(stack)
            calls, answers, verdicts = held.pipe(), held.pipe(), held.pipe()
            text = held.file(program)
            candidate.start("call", [text, calls[0], answers[1]])
            text = held.file(json.dumps(material).encode())
            tests.start("check", [text, calls[1], answers[0], verdicts[1]])
            for descriptor in (*calls, *answers, verdicts[1]):
                held.close(descriptor)
            deadline = time.monotonic() + self.limits.wall
            verdict = _read_until(verdicts[0], deadline, _MAX_VERDICT)
            is_late = time.monotonic() >= deadline
            for server in (candidate, tests):
                server.kill()
            ends = [self._end_of(role) for role in _ROLES]
        seconds = sum(end["cpu"] for end in ends)
        return _verdict_of(verdict, is_late, ends[0], ends[1], self.limits, seconds)

    def _end_of(self, role: Role, seconds: float = _REAPING_SECONDS) -> dict[str, Any]:
        """How a process ended; a server that cannot be cleaned of its program is ended as well.

        Raises:
            ServerLost: no process was shut in for the program, or nobody tells.
        """
        end = self._servers[role].receive(seconds)
        if "refused" in end:
            raise ServerLost(f"a process could not be shut in ({end['refused']})")
        if end["spent"]:
            self._servers.pop(role).close()
        return end

    def _run(self, program: bytes, problem: Problem) -> Verdict:
        seconds, left = 0.0, self.limits.wall
        for number, (given, wanted) in enumerate(problem.cases, 1):
            self._server("candidate")  # what its start takes is not the program's time
            begun = time.monotonic()
            verdict, spent = self._run_case(program, given, wanted, begun + left, problem)
            left -= time.monotonic() - begun
            seconds += spent
            most = problem.case_seconds
            if verdict.outcome is Outcome.PASSED and most is not None and spent > most:
                verdict = Verdict(
                    Outcome.TIMEOUT, detail=f"the program: more than {most:g} s of CPU"
                )
            if verdict.outcome is not Outcome.PASSED:
                return Verdict(verdict.outcome, f"case {number}", verdict.detail, seconds)
        return Verdict(Outcome.PASSED, cpu_seconds=seconds)

    def _run_case(
        self, program: bytes, given: str, wanted: str, deadline: float, problem: Problem
    ) -> tuple[Verdict, float]:
        server = self._server("candidate")
        with contextlib.ExitStack() as stack:
            held = _Held(stack)
            text = held.file(program)
            stdin = held.file(given.encode("utf-8", "surrogateescape"))
            printed = held.pipe()
            server.start("run", [text, stdin, printed[1]])
            held.close(printed[1])
            output = _read_until(printed[0], deadline, self.limits.output)
            is_late = time.monotonic() >= deadline
            if output is not None and not is_late:  # it has closed its output: let it end by itself
                with contextlib.suppress(ServerLost):
                    end = self._end_of("candidate", deadline - time.monotonic())
                    return _case_verdict(output, wanted, end, self.limits, problem), end["cpu"]
                is_late = True
            server.kill()
            end = self._end_of("candidate")
        if is_late:
            return Verdict(Outcome.TIMEOUT, detail="the time for all of it is over"), end["cpu"]
        detail = f"more than {self.limits.output} bytes of output"
        return Verdict(Outcome.OUTPUT_LIMIT, detail=detail), end["cpu"]


class _Held:
    """Descriptors that are closed at the end, or before."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._open: set[int] = set()
        stack.callback(self._close_all)

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._open.update(ends)
        return ends

    def file(self, data: bytes) -> int:
        """A file in memory, at its beginning."""
        descriptor = os.memfd_create("given", os.MFD_CLOEXEC)
        self._open.add(descriptor)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        os.close(descriptor)

    def _close_all(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)


def _read_until(descriptor: int, deadline: float, most: int) -> bytes | None:
    """All until its end, or until ``deadline``; None if it is more than ``most``."""
    poll, data = select.poll(), bytearray()
    poll.register(descriptor, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            break
        part = os.read(descriptor, 65_536)
        if not part:
            break
        data += part
        if len(data) > most:
            return None
    return bytes(data)


def _verdict_of(
    data: bytes | None,
    is_late: bool,
    candidate: dict[str, Any],
    tests: dict[str, Any],
    limits: Limits,
    seconds: float,
) -> Verdict:
    """From the message of the tests' side, and from how both sides ended."""
    said: dict[str, Any] = {}
    if data and len(data) > 4:
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(data[4:])
    said = said if isinstance(said, dict) else {}
    test, detail = str(said.get("test", ""))[:500], str(said.get("detail", ""))[:500]
    outcome = said.get("outcome")
    if outcome in ("passed", "failed", "memory", "infrastructure") and not is_late:
        return Verdict(Outcome(outcome), test, detail, seconds)
    if is_late:
        return Verdict(Outcome.TIMEOUT, test, f"more than {limits.wall:g} s in all", seconds)
    who, end = ("the program", candidate) if outcome == "ended" else ("the tests", tests)
    return _ended(who, end, limits, test, detail, seconds)


def _ended(
    who: str,
    end: dict[str, Any],
    limits: Limits,
    test: str = "",
    detail: str = "",
    seconds: float = 0.0,
) -> Verdict:
    """Of a process that ended when it should not have."""
    status = end["status"]
    is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    # The kernel counts the limit in ticks, a little differently from what it reports.
    if end["cpu"] >= limits.cpu - 0.1 or (is_killed and end["cpu"] >= 0.8 * limits.cpu):
        return Verdict(Outcome.TIMEOUT, test, f"{who}: more than {limits.cpu} s of CPU", seconds)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = f"{who} ended by {signal.Signals(number).name if number in set(signal.Signals) else number}"
    else:
        how = f"{who} ended with code {os.waitstatus_to_exitcode(status)}"
    return Verdict(Outcome.FAILED, test, f"{how} {detail}".strip(), seconds)


def _case_verdict(
    output: bytes, wanted: str, end: dict[str, Any], limits: Limits, problem: Problem
) -> Verdict:
    """Of a script that ended by itself."""
    if end["status"] != 0:
        if os.WIFEXITED(end["status"]) and os.WEXITSTATUS(end["status"]) == 98:
            return Verdict(Outcome.MEMORY, detail=f"more than {limits.memory} bytes")
        return _ended("the program", end, limits)
    found = output.decode("utf-8", "replace")
    if same_output(found, wanted, problem):
        return Verdict(Outcome.PASSED)
    return Verdict(Outcome.FAILED, detail=f"printed {found[:200]!r}, wanted {wanted[:200]!r}")


def lines_of(text: str) -> list[str]:
    """Lines without spaces at their ends and without empty ones at the end: what outputs are compared by."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def same_output(found: str, wanted: str, problem: Problem) -> bool:
    """Whether a script printed what was wanted, compared as its problem has it."""
    if not problem.compares_numbers:
        return lines_of(found) == lines_of(wanted)
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (found, wanted))
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(found: str, wanted: str) -> bool:
    """Equal, or the same numbers, exactly: 3 is 3.0, and 50000000000000001 is not 50000000000000000."""
    if found == wanted:
        return True
    try:
        return [decimal.Decimal(word) for word in found.split()] == [
            decimal.Decimal(word) for word in wanted.split()
        ]
    except decimal.InvalidOperation:  # a word is no number, or a signalling NaN
        return False
