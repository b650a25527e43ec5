"""Our own lines: those of problems.py (they have a ``kind``), or those that ``megatron-dream judge`` reads.

The latter are HumanEval's fields, or task_id, inputs and outputs (sandbox/problem.py); their ``prompt`` is
what the model is asked, and what it is told to write is added to it.
"""

from __future__ import annotations

from ....sandbox import ProblemError, problem_of
from ...problems import RlProblem, of_line
from .schema import Fields, Schema
from .wording import ask_for_functions, ask_for_script

_JUDGED = ("task_id", "test", "entry_point", "functions", "inputs", "outputs", "canonical_solution")


def _convert(fields: Fields, where: str) -> RlProblem:
    fields = {name: value for name, value in fields.items() if value is not None}
    if "kind" in fields:
        return of_line(fields, where)
    problem = problem_of(fields, where)
    if not problem.task_id or not problem.prompt:
        name = "prompt" if problem.task_id else "task_id"
        raise ProblemError(f"{where}: field {name!r} is empty; fill it in.")
    source = fields.get("source", "own")
    if problem.kind == "stdin":
        prompt = ask_for_script(problem.prompt)
    else:
        prompt = ask_for_functions(problem.prompt, problem.functions)
    return RlProblem(problem.task_id, problem.kind, prompt, problem, source=str(source))


SCHEMA = Schema(
    "own",
    ("prompt",),
    ("id", "kind", "problem", "answer", "source", "solve_rate", *_JUDGED),
    _convert,
)
