"""The client of SandboxFusion against a server that answers as the real one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from megatron_dream.sandbox import Limits, Outcome, Problem
from megatron_dream.sandbox.fusion import FusionClient, FusionError
from tests.unit.sandbox.fusion_service import Answer, Service, really


@pytest.fixture
def services() -> Iterator[Callable[[Answer], Service]]:
    made: list[Service] = []

    def make(answer: Answer) -> Service:
        made.append(Service(answer))
        return made[-1]

    yield make
    for service in made:
        service.close()


def client(*services: Service, **options: Any) -> FusionClient:
    options = {"sleep": lambda _: None, "limits": Limits(cpu=2), **options}
    return FusionClient([service.url for service in services], **options)


SQUARE = Problem("square", "stdin", cases=(("3\n", "9\n"), ("4\n", "16")))
NEXT = Problem(
    "next", tests="def check(candidate):\n    assert candidate(1) == 2", functions=("f",)
)

CALLED = Problem(
    "called",
    tests="from solution import f\n\ndef test_f():\n    assert f(1) == 2\n",
    functions=("f",),
)
METHOD = Problem(
    "method",
    tests="def check(candidate):\n    assert candidate(1) == Solution().f(1) == 2\n",
    functions=("Solution.f",),
)


@pytest.mark.parametrize(
    ("program", "problem", "outcome"),
    [
        ("print(int(input()) ** 2)", SQUARE, Outcome.PASSED),
        ("print(9)", SQUARE, Outcome.FAILED),
        ("while True: pass", SQUARE, Outcome.TIMEOUT),
        ("raise MemoryError", SQUARE, Outcome.MEMORY),
        ("print('x' * 2000000)", SQUARE, Outcome.OUTPUT_LIMIT),
        ("def f(x): return x + 1", NEXT, Outcome.PASSED),
        ("def f(x): return x", NEXT, Outcome.FAILED),
        ("import os\nos._exit(0)", NEXT, Outcome.FAILED),
        ("def f(x): return x + 1\ndef test_own(x): pass", CALLED, Outcome.PASSED),
        ("def f(x): return x", CALLED, Outcome.FAILED),
        ("class Solution:\n    def f(self, x): return x + 1", METHOD, Outcome.PASSED),
        ("class Solution:\n    def f(self, x): return x", METHOD, Outcome.FAILED),
    ],
)
def test_verdicts(
    services: Callable[[Answer], Service], program: str, problem: Problem, outcome: Outcome
) -> None:
    assert client(services(really)).judge(program, problem).outcome is outcome


def test_submit(services: Callable[[Answer], Service]) -> None:
    asks = client(services(really))
    assert asks.submit("human_eval_python", "0", "right") is True
    assert asks.submit("human_eval_python", "0", "wrong") is False


@pytest.mark.parametrize(
    "broken",
    [
        lambda *_: (503, b""),
        lambda *_: (429, b""),
        lambda *_: (200, b"<html>"),
        lambda *_: (200, b"[]"),
        lambda *_: (200, {"status": "SandboxError", "message": "no pod", "run_result": None}),
        lambda *_: (200, {"status": "Success", "run_result": {"status": "Error"}}),
    ],
)
def test_what_is_no_answer_is_asked_elsewhere(
    services: Callable[[Answer], Service], broken: Answer
) -> None:
    bad, good = services(broken), services(really)
    asks = client(bad, good)
    assert asks.run_code("print(1)").stdout == "1\n"
    assert len(bad.asked) == 1 and len(good.asked) == 1


def test_an_endpoint_that_is_gone_is_passed_over(services: Callable[[Answer], Service]) -> None:
    gone, good = services(really), services(really)
    gone.server.shutdown()
    gone.server.server_close()
    assert client(gone, good).run_code("print(1)").stdout == "1\n"


def test_pauses_grow_and_in_the_end_it_is_infrastructure(
    services: Callable[[Answer], Service],
) -> None:
    pauses: list[float] = []
    bad = services(lambda *_: (500, b""))
    asks = client(bad, attempts=5, pause=1.0, sleep=pauses.append)
    verdict = asks.judge("print(1)", SQUARE)
    assert verdict.outcome is Outcome.INFRASTRUCTURE and "HTTP 500" in verdict.detail
    assert len(bad.asked) == 5
    assert (
        all(0.5 * 2**n <= pause <= 1.5 * 2**n for n, pause in enumerate(pauses))
        and len(pauses) == 4
    )


def test_a_wrong_question_is_asked_once(services: Callable[[Answer], Service]) -> None:
    bad = services(lambda *_: (422, b""))
    with pytest.raises(FusionError, match="HTTP 422"):
        client(bad).run_code("print(1)")
    assert len(bad.asked) == 1


def test_no_endpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        FusionClient([])
