"""Responses to verdicts, where a service judges; the sandbox of this machine is tested with the stage."""

from __future__ import annotations

from megatron_dream.config.schema import RlConfig
from megatron_dream.rl.grading import Grader
from megatron_dream.rl.problems import RlProblem
from megatron_dream.sandbox import Outcome, Problem
from tests.unit.sandbox.fusion_service import Service, really

SQUARE = RlProblem(
    "square",
    "stdin",
    "Square the number.",
    Problem("square", "stdin", cases=(("3\n", "9\n"),)),
    source="made",
)
RIGHT = "```python\nprint(int(input()) ** 2)\n```"


def test_a_service_judges_each_distinct_program_once() -> None:
    service = Service(really)
    grader = Grader(RlConfig(judge_endpoints=[service.url]))
    try:
        assert "beside their tests" in grader.notice
        texts = [RIGHT, RIGHT.replace("2", "3"), RIGHT, "no block"]
        verdicts = [grader.submit(SQUARE, text)[1].result() for text in texts]
    finally:
        grader.close()
        service.close()
    outcomes = [Outcome.PASSED, Outcome.FAILED, Outcome.PASSED, Outcome.FORMAT]
    assert [verdict.outcome for verdict in verdicts] == outcomes
    assert len(service.asked) == 1 + 2
