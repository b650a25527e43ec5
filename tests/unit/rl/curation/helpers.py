"""Problems and phases for the tests of curation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from megatron_dream.rl.curation.decision import Decision
from megatron_dream.rl.curation.phase import Phase
from megatron_dream.rl.problems import Message, RlProblem
from megatron_dream.sandbox import Problem


def function(
    name: str, prompt: str = "", tests: str = "", reference: str | None = None
) -> RlProblem:
    problem = Problem(name, "function", tests=tests, functions=("f",), reference=reference)
    return RlProblem(name, "function", prompt or f"Write {name}.", problem, source="made")


def script(name: str, num_cases: int = 1, reference: str | None = None) -> RlProblem:
    cases = tuple((str(k), str(k)) for k in range(num_cases))
    problem = Problem(name, "stdin", cases=cases, reference=reference)
    return RlProblem(name, "stdin", f"Echo {name}.", problem, source="made")


def value(name: str, answer: str = "7") -> RlProblem:
    return RlProblem(name, "output", f"What is {name}?", answer={"output": answer}, source="made")


def decide(
    phase: Phase, problems: Sequence[RlProblem], folder: Path, notes: list[str] | None = None
) -> dict[str, Decision]:
    """What a phase decides, by id."""
    found = list(phase.decide(lambda: iter(problems), folder, [] if notes is None else notes))
    assert len({decision.id for decision in found}) == len(found)
    return {decision.id: decision for decision in found}


class Script:
    """A candidate model that says what it is told to, and counts how often it is asked."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, int]] = []

    def generate(self, prompts: Iterable[list[Message]], n: int, seed: int) -> list[list[str]]:
        texts = [prompt[-1]["content"] for prompt in prompts]
        self.asked += [(text, seed) for text in texts]
        return [self.answers[text][:n] for text in texts]
