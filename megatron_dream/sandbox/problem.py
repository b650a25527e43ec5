"""Problems: what a program is to do and how that is found out."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["function", "stdin"]


class ProblemError(ValueError):
    """A line that is no problem or no sample; the message says where."""


@dataclass(frozen=True)
class Problem:
    """One task with its tests.

    Attributes:
        task_id: its name.
        kind: ``function``: tests are Python that calls the solution's functions; ``stdin``: a script reads
            one of ``inputs`` and is to print the output beside it.
        prompt: what a completion is put behind; its other functions can be used by the tests too.
        tests: Python: assertions, functions ``test...``, or ``check(candidate)`` as HumanEval has.
        functions: names of the solution that tests call, the entry point first; ``Solution.add`` is a method,
            which tests call as ``Solution().add``, each time of a new instance.
        cases: (input, expected output) pairs.
        reference: a solution, if there is one.
        compares_numbers: of printed lines, words that are equal as numbers are equal (3, 3.0); and
            spaces at the lines' beginnings do not count. Benchmarks that compare so; not kept in files.
        case_seconds: of CPU for each of ``cases``, below the judge's own limit; None: that. Not kept either.
    """

    task_id: str
    kind: Kind = "function"
    prompt: str = ""
    tests: str = ""
    functions: tuple[str, ...] = ()
    cases: tuple[tuple[str, str], ...] = ()
    reference: str | None = None
    compares_numbers: bool = False
    case_seconds: float | None = None


def problem_of(fields: dict[str, Any], where: str) -> Problem:
    """From a line's fields: HumanEval's, or ``inputs`` and ``outputs``.

    Raises:
        ProblemError: a field is missing or of another type.
    """

    def text(name: str, default: str | None = None) -> str:
        value = fields.get(name, default)
        if not isinstance(value, str):
            raise ProblemError(f"{where}: field {name!r} is missing or is no string; add it.")
        return value

    task_id = text("task_id")
    reference = fields.get("canonical_solution")
    if reference is not None and not isinstance(reference, str):
        raise ProblemError(f"{where}: field 'canonical_solution' is no string; mend or remove it.")
    if "inputs" in fields:
        inputs, outputs = fields["inputs"], fields.get("outputs", [])
        for name, value in (("inputs", inputs), ("outputs", outputs)):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ProblemError(f"{where}: field {name!r} is to be a list of strings.")
        if not inputs or len(inputs) != len(outputs):
            raise ProblemError(
                f"{where}: {len(inputs)} inputs and {len(outputs)} outputs; give one for each, at least one."
            )
        return Problem(
            task_id,
            "stdin",
            text("prompt", ""),
            cases=tuple(zip(inputs, outputs, strict=True)),
            reference=reference,
        )
    prompt, tests = text("prompt", ""), text("test")
    functions = fields.get("functions") or [text("entry_point")]
    if not isinstance(functions, list) or not all(isinstance(name, str) for name in functions):
        raise ProblemError(f"{where}: field 'functions' is to be a list of names.")
    return Problem(task_id, "function", prompt, tests, tuple(functions), reference=reference)


def fields_of(problem: Problem) -> dict[str, Any]:
    """The fields that ``problem_of`` reads, for a line."""
    fields: dict[str, Any] = {"task_id": problem.task_id, "prompt": problem.prompt}
    if problem.kind == "stdin":
        fields["inputs"] = [given for given, _ in problem.cases]
        fields["outputs"] = [wanted for _, wanted in problem.cases]
    else:
        fields |= {"test": problem.tests, "functions": list(problem.functions)}
    if problem.reference is not None:
        fields["canonical_solution"] = problem.reference
    return fields


def helpers_of(problem: Problem) -> str:
    """What stands in the prompt besides the functions that are asked for, for the tests to use.

    HumanEval's tests call a few such (``poly``, ``encode_shift``). A prompt that is not Python has none.
    """
    asked = {name.partition(".")[0] for name in problem.functions}
    for text in (problem.prompt, problem.prompt + "\n    pass\n"):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        kept = [
            node
            for node in tree.body
            if isinstance(
                node, (ast.FunctionDef, ast.Import, ast.ImportFrom, ast.Assign, ast.ClassDef)
            )
            and getattr(node, "name", None) not in asked
        ]
        return "\n".join(ast.unparse(node) for node in kept)
    return ""


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file, each with its place for messages.

    Raises:
        ProblemError: a line is no object.
    """
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise ProblemError(f"{where}: no JSON ({error}); mend or remove it.") from None
            if not isinstance(fields, dict):
                raise ProblemError(f"{where}: no object; mend or remove it.")
            yield where, fields
