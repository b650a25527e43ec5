"""The candidate's side: load a program, then answer calls of its functions; or run it as a script.

Nothing here knows tests. A program that takes all of this over can send what it likes: the other side
reads plain values, whatever comes.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import json
import os
import sys
from typing import Any

from .frames import Closed, Incoming, write_frame
from .values import CannotCross, Reader, Writer, compact

_SAID = 500  # characters of an exception's text


def perform(task: str, text: bytes, descriptors: list[int]) -> int:
    """Do a task of the supervisor's; the exit code.

    Args:
        task: ``call``: serve calls of the program's functions; ``run``: run it as a script.
        text: of the program.
        descriptors: those of calls and answers, or standard input and output.
    """
    program = text.decode("utf-8", "surrogateescape")
    if task == "call":
        answer_calls(program, *descriptors)
        return 0
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return run_script(program)


def answer_calls(program: str, calls: int, answers: int) -> None:
    """Load the program and serve calls until the other side ends.

    Args:
        program: its text.
        calls: descriptor to read them from.
        answers: descriptor to write them to.
    """
    namespace: dict[str, Any] = {"__name__": "solution", "__builtins__": builtins}
    try:
        exec(compile(program, "<program>", "exec"), namespace)
        write_frame(answers, b'{"loaded":true}')
    except BaseException as error:
        write_frame(answers, json.dumps({"not loaded": _told(error)}).encode())
        return
    with contextlib.suppress(Closed):
        incoming = Incoming(calls)
        while True:
            write_frame(answers, _answer(namespace, json.loads(incoming.read())))


def _answer(namespace: dict[str, Any], call: dict[str, Any]) -> bytes:
    reader = Reader()
    positional = [reader.of(tree) for tree in call["args"]]
    named = {name: reader.of(tree) for name, tree in call["named"]}
    before = _contents(Writer(reader.objects)) if reader.objects else []
    answer: dict[str, Any] = {}
    try:
        value = _function(namespace, call["function"])(*positional, **named)
        writer = Writer(reader.objects)
        answer["changed"] = _changes(before, writer)
        answer["value"] = writer.tree(value)
        return compact(answer).encode()
    except CannotCross as error:
        return json.dumps({"changed": [], "no value": str(error)[:_SAID]}).encode()
    except RecursionError as error:
        return json.dumps({"changed": [], "raised": _told(error)}).encode()
    except BaseException as error:
        writer = Writer(reader.objects)
        changes: list[Any] = []
        with contextlib.suppress(CannotCross, RecursionError):
            changes = _changes(before, writer)
        return json.dumps({"changed": changes, "raised": _told(error)}).encode()


def _function(namespace: dict[str, Any], name: str) -> Any:
    """A function of the program's, or a method of a new instance (``Solution.add``)."""
    owner, _, method = name.rpartition(".")
    return getattr(namespace[owner](), method) if owner else namespace[name]


def _contents(writer: Writer) -> list[Any]:
    return [writer.contents(number) for number in range(len(writer.objects))]


def _changes(before: list[Any], writer: Writer) -> list[Any]:
    """Numbers and contents of the arguments' containers that are not what they were."""
    changes = []
    for number, old in enumerate(before):
        new = writer.contents(number)
        if new != old:
            changes.append([number, new])
    return changes


def _told(error: BaseException) -> list[Any]:
    """Nearest exception of Python's own, its arguments if they are plain, its text."""
    own = next(
        kind for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind
    )
    try:
        arguments = [Writer().tree(argument) for argument in error.args]
        text = str(error)[:_SAID]
    except BaseException:
        arguments, text = [], ""
    return [own.__name__, arguments if len(json.dumps(arguments)) < 10_000 else [], text]


def run_script(program: str) -> int:
    """Run the program as ``__main__`` on the standard streams; its exit code."""
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    code = 0
    try:
        exec(compile(program, "<program>", "exec"), namespace)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except MemoryError:
        namespace.clear()
        gc.collect()
        code = 98
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}"[:_SAID].encode(errors="replace"))
        code = 1
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    return code & 0xFF
