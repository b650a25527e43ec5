"""Problems that RL is trained on: the prompt, and what decides whether a response is right.

``megatron-dream curate`` writes them, one JSON object a line; the training step reads them. Kinds and
what of a response counts are those of sandbox/formats.py (SPEC 8).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..sandbox.formats import FIELDS, normalised
from ..sandbox.problem import Problem, ProblemError, fields_of, helpers_of, problem_of, read_lines

Kind = Literal["function", "stdin", "output"]
Message = dict[str, str]
Answer = str | dict[str, Any] | list[Any]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class RlProblem:
    """One prompt and how its responses are judged.

    Attributes:
        id: its name, once in a file.
        kind: ``function``, ``stdin``: a program, judged by running it; ``output``: a predicted value, judged
            by comparing.
        prompt: what the model is asked: messages, or a string, which is one message of the user's.
        problem: the tests, for the sandbox (function, stdin).
        answer: what is wanted (output): an object with the field ``output`` or ``input``, or the value
            itself. Text that is a Python literal stands for its value.
        source: the data set that it is from.
        solve_rate: share of candidates that were right when it was curated, 0 to 1; None: not measured.
    """

    id: str
    kind: Kind
    prompt: str | list[Message]
    problem: Problem | None = None
    answer: Answer | None = None
    source: str = ""
    solve_rate: float | None = None

    def messages(self) -> list[Message]:
        """The prompt as messages for a chat template."""
        if isinstance(self.prompt, str):
            return [{"role": "user", "content": self.prompt}]
        return self.prompt

    def prompt_text(self) -> str:
        """The prompt's words alone, which say whether two problems are alike."""
        return "\n".join(message["content"] for message in self.messages())

    def program(self, answer: str) -> str:
        """What is run for the program of a response: that, behind what the tests' prompt gives to all.

        Such as the imports of a starter, or functions that a program may use. (function, stdin)
        """
        assert self.problem is not None
        given = helpers_of(self.problem)
        return f"{given}\n{answer}" if given else answer

    def wanted(self) -> Any:
        """What ``formats.value_of`` returns for a right response (output)."""
        answer: Any = self.answer
        if isinstance(answer, dict):
            answer = next((answer[name] for name in FIELDS if name in answer), answer)
        return ("value", normalised(answer))

    def to_line(self) -> str:
        """One line of JSON with its line feed."""
        fields = {
            "id": self.id,
            "kind": self.kind,
            "prompt": self.prompt,
            "problem": None if self.problem is None else fields_of(self.problem),
            "answer": self.answer,
            "source": self.source,
            "solve_rate": self.solve_rate,
        }
        return (
            json.dumps({name: value for name, value in fields.items() if value is not None}) + "\n"
        )


def of_line(fields: dict[str, Any], where: str) -> RlProblem:
    """From a line's fields, all of them checked.

    Args:
        fields: as ``to_line`` writes them.
        where: file and line, for messages.

    Raises:
        ProblemError: a field is missing or is not what it should be.
    """
    for name in ("id", "kind", "source"):
        if not isinstance(fields.get(name, ""), str):
            raise ProblemError(f"{where}: field {name!r} is no string; write one.")
    kind = fields.get("kind")
    if kind not in KINDS:
        raise ProblemError(f"{where}: field 'kind' is {kind!r}; write one of {', '.join(KINDS)}.")
    if not fields.get("id"):
        raise ProblemError(f"{where}: field 'id' is missing; name the problem.")
    is_output = kind == "output"
    return RlProblem(
        fields["id"],
        kind,
        _prompt(fields.get("prompt"), where),
        None if is_output else _problem(fields, where),
        _answer(fields.get("answer"), where) if is_output else None,
        fields.get("source", ""),
        _solve_rate(fields.get("solve_rate"), where),
    )


def read_problems(path: Path | str) -> Iterator[RlProblem]:
    """All problems of a JSONL file.

    Raises:
        ProblemError: a line is no problem, or an id is there twice; file, line and field are named.
    """
    seen: set[str] = set()
    for where, fields in read_lines(Path(path)):
        problem = of_line(fields, where)
        if problem.id in seen:
            raise ProblemError(f"{where}: field 'id': {problem.id!r} is there twice; keep one.")
        seen.add(problem.id)
        yield problem


def _prompt(prompt: Any, where: str) -> str | list[Message]:
    if isinstance(prompt, str) and prompt:
        return prompt
    if not isinstance(prompt, list) or not prompt:
        raise ProblemError(f"{where}: field 'prompt' is missing; give text or a list of messages.")
    for message in prompt:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(name), str) for name in ("role", "content")
        ):
            raise ProblemError(
                f"{where}: field 'prompt': a message is to be an object with strings role and content."
            )
    if prompt[-1]["role"] != "user":
        raise ProblemError(f"{where}: field 'prompt': the last message is to be the user's.")
    return prompt


def _problem(fields: dict[str, Any], where: str) -> Problem:
    inner, kind = fields.get("problem"), fields["kind"]
    if not isinstance(inner, dict):
        raise ProblemError(
            f"{where}: field 'problem' is missing; a {kind} problem needs its tests."
        )
    problem = problem_of(inner, f"{where}, field 'problem'")
    if problem.kind != kind:
        raise ProblemError(
            f"{where}: field 'problem' has tests of kind {problem.kind}, field 'kind' says {kind}; "
            "make them agree."
        )
    return problem


def _answer(answer: Any, where: str) -> Answer:
    if not isinstance(answer, (str, dict, list)):
        raise ProblemError(
            f"{where}: field 'answer' is missing or is no string, object or list; an output problem "
            "needs one (write None or a number as a string)."
        )
    return answer


def _solve_rate(rate: Any, where: str) -> float | None:
    if rate is None:
        return None
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise ProblemError(f"{where}: field 'solve_rate' is {rate!r}; write a number from 0 to 1.")
    return float(rate)
