"""One toy problem asked for in three ways: a function, a program over stdin, the output of a program.

The grammar is rl_problems.py's. The same question gives

- ``function``: its words; the answer is a function in a fence, judged by assertions;
- ``stdin``: the words behind ``print``; the answer reads a line, computes and prints, judged by its output;
- ``output``: the right program and one argument; the answer is the result as JSON in a fence, behind the
  value of the inner list where the program builds one. Judged by comparing values.

Lines are those of the rl stage (rl/problems.py), so that the benchmark ``problems`` reads them too.
Described in docs/sweeps.md.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rl_problems  # noqa: E402
from rl_problems import Question  # noqa: E402

NAMES = ("function", "stdin", "output")
_READ = {  # how a program over stdin gets what the function is given
    "xs": "xs=[int(v) for v in input().split()]",
    "ws": "ws=input().split()",
    "s": "s=input()",
    "n": "n=int(input())",
}
_LONGEST = 16  # characters of an output that is asked for, and of the list inside it
_TRIES = 40  # arguments that are tried for a short result


@dataclass(frozen=True)
class Rendered:
    """A question in one rendering.

    Attributes:
        name: of the rendering.
        prompt: text after BOS.
        response: of a demonstration that is right.
        fields: the line's, without ``id``.
    """

    name: str
    prompt: str
    response: str
    fields: dict[str, Any]

    def line(self, number: int) -> dict[str, Any]:
        """A problem's line, as the rl stage reads it."""
        identity = f"{self.name}/{number}"
        fields = dict(self.fields)
        if "problem" in fields:
            fields["problem"] = {"task_id": identity, **fields["problem"]}
        return {"id": identity, "kind": self.name, "prompt": self.prompt, **fields}


def function(question: Question, seed: int = 0) -> Rendered | None:
    """As it is; None where no test tells right from wrong."""
    tests = rl_problems.tests_of(question, seed)
    if tests is None:
        return None
    problem = {"entry_point": rl_problems.ENTRY_POINT, "test": tests}
    problem["canonical_solution"] = question.right
    response = rl_problems.fenced(question.right)
    return Rendered("function", question.prompt, response, {**_facts(question), "problem": problem})


def stdin(question: Question, seed: int = 0) -> Rendered | None:
    """A program that reads the arguments of the function's tests, one a run."""
    tests = rl_problems.tests_of(question, seed)
    if tests is None:
        return None
    call, program = _function(question.right), script(question.right)
    arguments = [_argument(line) for line in tests.splitlines()]
    problem = {
        "inputs": [line_of(argument) for argument in arguments],
        # called again: a set's order of printing depends on how it was filled
        "outputs": [f"{call(argument)}\n" for argument in arguments],
        "canonical_solution": program,
    }
    fields = {**_facts(question), "problem": problem}
    return Rendered("stdin", f"print {question.prompt}", rl_problems.fenced(program), fields)


def output(question: Question, seed: int = 0) -> Rendered | None:
    """What the right program returns for one short argument; None where none has a short result."""
    generator = random.Random(f"{seed} output {question.prompt}")
    call = _function(question.right)
    for _ in range(_TRIES):
        argument = _short_argument(question.right, generator)
        try:
            result = call(argument)
        except Exception:  # whatever it is, the call has no value
            continue
        text, step = _json(result), inner_value(question.right, argument)
        head = "" if step is None else f"{_json(step)}\n"
        if max(len(text), len(head)) <= _LONGEST and result not in ([], ""):
            break
    else:
        return None
    prompt = f"{question.right}\n{rl_problems.ENTRY_POINT}({argument!r})\n"
    fields = {**_facts(question), "answer": {"output": json.loads(text)}}
    return Rendered("output", prompt, f"{head}```\n{text}\n```", fields)


RENDERINGS: dict[str, Callable[[Question, int], Rendered | None]] = {
    "function": function,
    "stdin": stdin,
    "output": output,
}


def render(questions: Sequence[Question], seed: int = 0) -> dict[str, list[Rendered]]:
    """Each question in all renderings; one that lacks a rendering is left out of all."""
    found: dict[str, list[Rendered]] = {name: [] for name in NAMES}
    for question in questions:
        forms = {name: make(question, seed) for name, make in RENDERINGS.items()}
        if all(forms.values()):
            for name, form in forms.items():
                assert form is not None
                found[name].append(form)
    return found


def script(program: str) -> str:
    """The function ``program`` as a program over stdin that does the same.

    ``def f(n): return n+1`` becomes ``n=int(input())`` and ``print(n+1)``.
    """
    head, _, rest = program.partition(":")
    name = head[head.index("(") + 1 : head.index(")")]
    body = [line.removeprefix(" ") for line in rest.removeprefix("\n").split("\n")]
    lines = [_READ[name], *body[:-1], f"print({body[-1].strip().removeprefix('return ')})"]
    return "\n".join(lines)


def line_of(argument: Any) -> str:
    """An argument as the line that a program over stdin reads."""
    if isinstance(argument, list):
        return " ".join(map(str, argument)) + "\n"
    return f"{argument}\n"


def inner_value(program: str, argument: Any) -> Any | None:
    """The value of the comprehension inside what ``program`` returns; None where it has none inside."""
    tree = ast.parse(program)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    last = definition.body[-1]
    assert isinstance(last, ast.Return) and last.value is not None
    inner = [
        node
        for node in ast.walk(last.value)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)) and node is not last.value
    ]
    if not inner:
        return None
    found = inner[0]
    last.value = ast.ListComp(found.elt, found.generators)
    return _function(ast.unparse(ast.fix_missing_locations(tree)))(argument)


def _facts(question: Question) -> dict[str, Any]:
    template = question.template
    return {"source": "demonstration", "template": template.name, "topic": template.topic}


def _argument(assertion: str) -> Any:
    """Of ``assert f(ARGUMENT) == RESULT``."""
    test = ast.parse(assertion).body[0]
    assert isinstance(test, ast.Assert) and isinstance(test.test, ast.Compare)
    call = test.test.left
    assert isinstance(call, ast.Call)
    return ast.literal_eval(call.args[0])


def _function(program: str) -> Callable[[Any], Any]:
    names: dict[str, Any] = {}
    exec(program, names)  # of this grammar
    call: Callable[[Any], Any] = names[rl_problems.ENTRY_POINT]
    return call


def _short_argument(program: str, generator: random.Random) -> Any:
    """Short enough for a small model's prompt."""
    if "f(n)" in program:
        return generator.randint(1, 20)
    if "f(s)" in program:
        return "".join(generator.choices("abdgkmprtw", k=4))
    if "f(ws)" in program:
        return ["".join(generator.choices("abcxyz", k=generator.randint(1, 7))) for _ in range(3)]
    return [generator.randint(0, 12) for _ in range(4)]


def _json(value: Any) -> str:
    """As JSON, a set as its sorted list."""
    return json.dumps(sorted(value) if isinstance(value, set) else value)
