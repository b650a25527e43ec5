"""The tests' side: run a problem's tests, every call of the solution going to the candidate's process.

The tests come from strangers as well and are shut in like the candidate; what they can spoil is the
verdict on themselves. The verdict is one small message.
"""

from __future__ import annotations

import builtins
import json
import linecache
import sys
import traceback
import types
from typing import Any

from .frames import Closed, Incoming, write_frame
from .values import CannotCross, Reader, Writer, compact

_SAID = 500
TESTS = "<tests>"


class CandidateEnded(BaseException):
    """Its process is gone: no ``except Exception`` of a test goes on as if it were not."""


class NotJudgeable(BaseException):
    """The tests ask for what cannot be done across two processes."""


class Link:
    """The candidate's process."""

    def __init__(self, calls: int, answers: int) -> None:
        self._calls, self._answers = calls, Incoming(answers)
        self.problem: BaseException | None = None  # remembered, should a test swallow it

    def ask(self, message: dict[str, Any] | None) -> dict[str, Any]:
        """Send, if there is something to send, and receive."""
        if self.problem is not None:
            raise self.problem
        try:
            if message is not None:
                write_frame(self._calls, compact(message).encode())
            answer = json.loads(self._answers.read())
            if isinstance(answer, dict):
                return answer
        except (Closed, ValueError, RecursionError):
            pass
        self.problem = CandidateEnded()
        raise self.problem

    def refuse(self, reason: str) -> None:
        """Give up: the fault is the tests'."""
        self.problem = NotJudgeable(reason)
        raise self.problem


class Function:
    """A function of the candidate's, called as if it were here."""

    def __init__(self, link: Link, name: str) -> None:
        self._link = link
        self.__name__ = self.__qualname__ = name

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Ask the candidate's process."""
        writer = Writer()
        try:
            message = {
                "function": self.__name__,
                "args": [writer.tree(argument) for argument in args],
                "named": [[name, writer.tree(argument)] for name, argument in named.items()],
            }
        except (CannotCross, RecursionError) as error:
            self._link.refuse(f"an argument of {self.__name__} cannot cross: {error}")
        answer = self._link.ask(message)
        reader = Reader(writer.objects)
        try:
            for number, contents in answer["changed"]:
                reader.refill(number, contents)
            if "value" in answer:
                return reader.of(answer["value"])
            if "no value" in answer:
                raise TypeError(f"{self.__name__} returned what is not plain: {answer['no value']}")
            name, arguments, _ = answer["raised"]
            raised = getattr(builtins, name)
            values = [Reader().of(argument) for argument in arguments]
        except (CannotCross, KeyError, ValueError, AttributeError, RecursionError, IndexError):
            raise TypeError(f"{self.__name__} answered what is no plain value") from None
        if not (isinstance(raised, type) and issubclass(raised, Exception)):
            self._link.problem = CandidateEnded()  # SystemExit and the like end a program
            raise self._link.problem
        raise _instance(raised, values)


class Instances:
    """A class of the candidate's as tests see it: a call makes what has the methods, and no state."""

    def __init__(self, methods: dict[str, Function]) -> None:
        self._methods = methods

    def __call__(self) -> types.SimpleNamespace:
        """One more instance; the candidate's process makes a new one for every call of a method."""
        return types.SimpleNamespace(**self._methods)


def _named(functions: dict[str, Function]) -> dict[str, Any]:
    """What tests call by name: functions, and classes for ``Solution.add``."""
    names: dict[str, Any] = {}
    methods: dict[str, dict[str, Function]] = {}
    for name, function in functions.items():
        owner, _, method = name.rpartition(".")
        if owner:
            methods.setdefault(owner, {})[method] = function
        else:
            names[name] = function
    return {**names, **{owner: Instances(own) for owner, own in methods.items()}}


def _instance(kind: type[Exception], values: list[Any]) -> Exception:
    try:
        return kind(*values)
    except TypeError:  # one of those that want certain arguments
        error = kind.__new__(kind)
        error.args = tuple(values)
        return error


def perform(task: str, text: bytes, descriptors: list[int]) -> int:
    """Do a task of the supervisor's; the exit code.

    Args:
        task: there is one.
        text: see ``check``, as JSON.
        descriptors: of calls, answers, and the verdict.
    """
    calls, answers, verdicts = descriptors
    write_frame(verdicts, json.dumps(check(json.loads(text), calls, answers)).encode())
    return 0


def check(tests: dict[str, Any], calls: int, answers: int) -> dict[str, str]:
    """Run the tests; the verdict.

    Args:
        tests: ``helpers`` (what the tests may use besides), ``tests`` (their text), ``functions`` (names
            of the candidate's that they call, the entry point first).
        calls: descriptor to write calls to.
        answers: descriptor to read answers from.
    """
    link = Link(calls, answers)
    try:
        loaded = link.ask(None)
    except CandidateEnded:
        return {"outcome": "ended", "detail": "while it was loaded"}
    if "loaded" not in loaded:
        name, _, text = loaded.get("not loaded", ["", [], ""])
        if name == "SystemExit":
            return {"outcome": "ended", "detail": "it left while it was loaded"}
        outcome = "memory" if name == "MemoryError" else "failed"
        return {"outcome": outcome, "test": "loading the program", "detail": f"{name}: {text}"}
    functions = {name: Function(link, name) for name in tests["functions"]}
    verdict = _run(tests, functions)
    if isinstance(link.problem, NotJudgeable):
        return {"outcome": "infrastructure", "detail": str(link.problem)}
    if link.problem is not None:
        return {"outcome": "ended", "detail": "while it was called", **_only(verdict, "test")}
    return verdict


def _only(verdict: dict[str, str], name: str) -> dict[str, str]:
    return {name: verdict[name]} if name in verdict else {}


def _run(tests: dict[str, Any], functions: dict[str, Function]) -> dict[str, str]:
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    try:
        exec(compile(tests["helpers"], "<helpers>", "exec"), namespace)
    except BaseException as error:
        return {"outcome": "infrastructure", "detail": f"the tests' helpers: {_line_of(error)}"}
    names = _named(functions)
    namespace |= names
    solution = types.ModuleType("solution")
    vars(solution).update(names)
    sys.modules["solution"] = solution
    text = tests["tests"]
    linecache.cache[TESTS] = (len(text), None, text.splitlines(keepends=True), TESTS)
    try:
        code = compile(text, TESTS, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"outcome": "infrastructure", "detail": f"the tests do not compile: {error}"[:_SAID]}
    current = ""
    try:
        exec(code, namespace)
        if callable(namespace.get("check")) and functions:
            current = "check"
            namespace["check"](next(iter(functions.values())))
        for name, test in list(namespace.items()):
            if name.startswith("test") and isinstance(test, types.FunctionType):
                current = name
                test()
    except BaseException as error:
        is_memory = isinstance(error, MemoryError)
        return {
            "outcome": "memory" if is_memory else "failed",
            "test": _place_of(error) or current,
            "detail": _line_of(error),
        }
    return {"outcome": "passed"}


def _place_of(error: BaseException) -> str:
    """The line of the tests in which it went wrong."""
    try:
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == TESTS
        ]
        return (
            f"line {frames[-1].lineno}: {(frames[-1].line or '').strip()}"[:_SAID] if frames else ""
        )
    except BaseException:
        return ""


def _line_of(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:_SAID]
    except BaseException:
        return type(error).__name__
