"""The judge against programs and tests that cheat, break out, break things or stay."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from megatron_dream.sandbox import Judge, Limits, Outcome, Problem, SandboxUnavailable, problem_of
from megatron_dream.sandbox.engine import Isolation, Role, Server
from megatron_dream.sandbox.slot import Slot
from tests.system.sandbox_attacks import ATTACKS, BAD_TESTS, RIGHT, TESTS

PROBLEM = Problem("one more", tests=TESTS, functions=("f",))
GROWTH = 8 << 20  # of the supervisor, bytes


def shut_in(users: list[int]) -> set[psutil.Process]:
    """Processes of programs that some servers started; ``users``: their first user ids."""
    found = set()
    for process in psutil.process_iter(["uids"]):
        uids = process.info["uids"]
        if uids is not None and any(0 <= uids.real - first < 65_536 for first in users):
            found.add(process)
    return found


def waiting(slot: Slot) -> set[psutil.Process]:
    """Processes that wait for the next program: one below each server, with nothing below it.

    Under bubblewrap there is none.
    """
    found = set()
    for server in slot._servers.values():
        (inside,) = psutil.Process(server.process.pid).children()
        processes = inside.children(recursive=True)
        assert len(processes) == (slot.isolation == "namespaces")
        found.update(processes)
    return found


@contextlib.contextmanager
def wall(slot: Slot, seconds: float) -> Iterator[None]:
    """Less time than what a right program may need on a busy machine."""
    kept = slot.limits
    slot.limits = dataclasses.replace(kept, wall=seconds)
    yield
    slot.limits = kept


ENGINES = [
    "namespaces",
    pytest.param(
        "bubblewrap",
        marks=pytest.mark.skipif(
            shutil.which("bwrap") is None,
            reason="needs bubblewrap: apt-get install bubblewrap",
        ),
    ),
]


@pytest.fixture(scope="module", params=ENGINES)
def slot(request: pytest.FixtureRequest) -> Iterator[Slot]:
    made = Slot(request.param, Limits(cpu=1, wall=60.0))
    yield made
    made.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_passes_and_nothing_stays(slot: Slot, name: str) -> None:
    assert slot.judge(RIGHT, PROBLEM).passed
    us = psutil.Process()
    before, memory = us.num_fds(), us.memory_info().rss
    users = [server.first_user for server in slot._servers.values()]
    with wall(slot, 8.0):
        verdict = slot.judge(ATTACKS[name], PROBLEM)
    assert verdict.outcome not in (Outcome.PASSED, Outcome.INFRASTRUCTURE), verdict
    assert us.memory_info().rss < memory + GROWTH
    _, alive = psutil.wait_procs(shut_in(users) - waiting(slot), timeout=10)
    assert alive == []
    assert slot.judge(RIGHT, PROBLEM).passed  # nothing of it is left for the next
    assert us.num_fds() == before


def test_no_program_finds_the_files_of_an_earlier_one(slot: Slot) -> None:
    program = """
import os
def f(x):
    found = os.path.exists('/tmp/kept')
    open('/tmp/kept', 'w').close()
    return x + found
"""
    for _ in range(2):
        verdict = slot.judge(program, PROBLEM)
        assert "assert f(1) == 2" in verdict.test, verdict
    both = Problem("twice", tests="assert f(1) == 1\nassert f(1) == 2", functions=("f",))
    assert slot.judge(program, both).passed  # its own it finds


@pytest.mark.parametrize("isolation", [*ENGINES, "process"])
def test_a_program_starts_in_a_folder_that_it_can_write_to(isolation: Isolation) -> None:
    program = """
import os
def f(x):
    with open('number', 'w') as stream: stream.write(str(x + 1))
    return int(open('number').read()) if os.listdir() == ['number'] else None
"""
    slot = Slot(isolation, Limits(cpu=2, wall=60.0))
    try:
        for _ in range(2):
            verdict = slot.judge(program, PROBLEM)
            assert verdict.passed, verdict
    finally:
        slot.close()


def test_a_program_can_signal_itself(slot: Slot) -> None:
    program = """
import signal
def f(x):
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(x + 1))
    signal.raise_signal(signal.SIGUSR1)
    return seen[0]
"""
    verdict = slot.judge(program, PROBLEM)
    assert verdict.passed, verdict


def test_the_whole_standard_library_is_there(slot: Slot) -> None:
    program = "import csv, hashlib, sqlite3, unittest, uuid, zlib\n" + RIGHT
    verdict = slot.judge(program, PROBLEM)
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", BAD_TESTS)
def test_tests_are_shut_in_as_well(slot: Slot, name: str) -> None:
    us = psutil.Process()
    before, memory = us.num_fds(), us.memory_info().rss
    verdict = slot.judge(RIGHT, Problem(name, tests=BAD_TESTS[name], functions=("f",)))
    assert not verdict.passed
    assert us.memory_info().rss < memory + GROWTH
    assert slot.judge(RIGHT, PROBLEM).passed
    assert us.num_fds() == before


@pytest.mark.parametrize(
    ("program", "outcome", "words"),
    [
        ("def f(x):\n    while True: pass", Outcome.TIMEOUT, "CPU"),
        ("import time\ndef f(x): time.sleep(99)", Outcome.TIMEOUT, "in all"),
        ("def f(x): return len(bytearray(8 << 30))", Outcome.MEMORY, "MemoryError"),
        ("x = bytearray(8 << 30)", Outcome.MEMORY, "MemoryError"),
        ("def f(x): return x", Outcome.FAILED, "AssertionError"),
        ("def f(x): raise KeyError('k')", Outcome.FAILED, "KeyError"),
        ("def g(x): return x + 1", Outcome.FAILED, "KeyError"),
        ("import os\nos._exit(3)", Outcome.FAILED, "code 3"),
    ],
)
def test_outcomes_are_told_apart(slot: Slot, program: str, outcome: Outcome, words: str) -> None:
    with wall(slot, 4.0 if words == "in all" else 60.0):
        verdict = slot.judge(program, PROBLEM)
    assert verdict.outcome is outcome and words in verdict.detail, verdict


VALUES = [
    "(1, [2, (3,)], {4: {5, 6}}, frozenset({7}))",
    "[True, 1, 1.0, 1j, None, 'é\\ud800', b'\\x00\\xff', bytearray(b'a')]",
    "(float('inf'), -0.0, 2 ** 9000, -(2 ** 63))",
    "__import__('collections').Counter('abca')",
    "__import__('collections').OrderedDict([('b', 1), ('a', 2)])",
    "__import__('collections').deque([1, 2, 3], maxlen=3)",
    "range(3, 90, 4)",
    "__import__('fractions').Fraction(3, 7)",
    "__import__('decimal').Decimal('1.10')",
    "__import__('datetime').datetime(2024, 2, 29, 1, 2, 3)",
    "[[], [[]], {}, set(), (), '']",
]


@pytest.mark.parametrize("value", VALUES)
def test_values_cross_both_ways_with_their_types(slot: Slot, value: str) -> None:
    tests = (
        f"given = {value}\nback = f(given)\nassert repr(back) == repr(given), repr(back)\n"
        "assert type(back) is type(given)"
    )
    program = f"def f(x):\n    assert repr(x) == repr({value})\n    return x"
    verdict = slot.judge(program, Problem("echo", tests=tests, functions=("f",)))
    assert verdict.passed, verdict


def test_changed_arguments_come_back_in_place(slot: Slot) -> None:
    program = """
def f(a, b, c):
    a.sort(); b["new"] = a; c.add(9); b["old"].append(a)
    return a
"""
    tests = """
a, inner, c = [3, 1, 2], [7], {1}
b = {"old": inner}
kept = a
back = f(a, b, c)
assert back is a is kept and a == [1, 2, 3]
assert b["new"] is a and b["old"] is inner and inner == [7, a] and inner[1] is a and c == {1, 9}
"""
    verdict = slot.judge(program, Problem("changes", tests=tests, functions=("f",)))
    assert verdict.passed, verdict


def test_exceptions_and_iterators_cross(slot: Slot) -> None:
    program = """
class Own(ValueError): pass
def f(x):
    if x < 0: raise Own("negative", x)
    return (n * n for n in range(x))
"""
    tests = """
try:
    f(-1)
except ValueError as error:
    assert type(error) is ValueError and error.args == ("negative", -1)
else:
    assert False
assert f(3) != [0, 1, 4] and list(f(3)) == [0, 1, 4]
"""
    verdict = slot.judge(program, Problem("raises", tests=tests, functions=("f",)))
    assert verdict.passed, verdict


def test_a_raw_answer_that_tests_hand_on_is_the_programs_fault(slot: Slot) -> None:
    program = ATTACKS["a raw answer that cannot be handed on"]
    problem = Problem("hands on", tests="assert f(f(1)) == 3", functions=("f",))
    verdict = slot.judge(program, problem)
    assert verdict.outcome is Outcome.FAILED, verdict
    assert slot.judge(RIGHT, problem).passed


def test_methods_are_called_of_new_instances(slot: Slot) -> None:
    problem = Problem(
        "methods",
        tests="from solution import Solution\ndef check(add):\n    assert add([1], 2) == [1, 2]\n"
        "assert Solution().add(x=[], y=3) == [3] and Solution().count() == Solution().count() == 1\n",
        functions=("Solution.add", "Solution.count"),
    )
    program = (
        "class Solution:\n    def __init__(self): self.n = 0\n"
        "    def add(self, x, y): return x + [y]\n"
        "    def count(self):\n        self.n += 1\n        return self.n\n"
    )
    assert slot.judge(program, problem).passed
    assert slot.judge(program.replace("[y]", "[-y]"), problem).outcome is Outcome.FAILED
    assert slot.judge("Solution = None", problem).outcome is Outcome.FAILED


def test_a_test_that_swallows_all_errors_does_not_pass_a_program_that_has_ended(slot: Slot) -> None:
    tests = "for n in range(3):\n    try: f(n)\n    except Exception: pass"
    problem = Problem("swallows", tests=tests, functions=("f",))
    assert slot.judge("def f(x): raise ValueError", problem).passed
    assert not slot.judge("import os\ndef f(x): os._exit(0)", problem).passed
    assert not slot.judge("import sys\ndef f(x): sys.exit(0)", problem).passed
    swallows_all = Problem(
        "all", tests=tests.replace("Exception", "BaseException"), functions=("f",)
    )
    assert not slot.judge("import os\ndef f(x): os._exit(0)", swallows_all).passed


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("n = int(input())\nprint(*[int(x) * n for x in input().split()])", Outcome.PASSED),
        (
            "import sys\nn, *xs = map(int, sys.stdin.read().split())\n"
            "print(*(x * n for x in xs), end='  \\n\\n')",
            Outcome.PASSED,
        ),
        ("print(input())", Outcome.FAILED),
        ("print('x' * (2 << 20))", Outcome.OUTPUT_LIMIT),
        ("while True: print('x' * 1000)", Outcome.OUTPUT_LIMIT),
        ("while True: pass", Outcome.TIMEOUT),
        ("x = bytearray(8 << 30)", Outcome.MEMORY),
        ("import os\nprint('2 4')\nos._exit(1)", Outcome.FAILED),
        ("import os, time\nprint('2 4', flush=True)\nos.close(1)\ntime.sleep(99)", Outcome.TIMEOUT),
        ("while True:\n    try: input()\n    except EOFError: break", Outcome.FAILED),
    ],
)  # fmt: skip
def test_scripts_on_standard_streams(slot: Slot, program: str, outcome: Outcome) -> None:
    cases = (("2\n1 2\n", "2 4\n"), ("3\n5\n", "15"))
    with wall(slot, 4.0 if "sleep" in program else 60.0):
        verdict = slot.judge(program, Problem("times", "stdin", cases=cases))
    assert verdict.outcome is outcome, verdict
    assert outcome is Outcome.PASSED or verdict.test == "case 1"
    assert slot.judge(RIGHT, PROBLEM).passed


def test_a_servers_start_is_not_the_programs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is lost before the first case and after it; each start takes longer than a program may."""
    slot = Slot("process", Limits(cpu=60, wall=60.0))
    start, run_case, num_starts = Slot._server, slot._run_case, 0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 61.0 * num_starts)
    monkeypatch.setattr("megatron_dream.sandbox.slot.time", clock)

    def slow_start(self: Slot, role: Role) -> Server:
        nonlocal num_starts
        if role not in self._servers:
            num_starts += 1
        return start(self, role)

    def lose_the_server(*arguments: Any) -> Any:
        judged = run_case(*arguments)
        slot._servers.pop("candidate").close()
        return judged

    monkeypatch.setattr(Slot, "_server", slow_start)
    monkeypatch.setattr(slot, "_run_case", lose_the_server)
    try:
        slot._servers.pop("candidate").close()
        verdict = slot.judge("print(input())", Problem("echo", "stdin", cases=(("1", "1"),) * 2))
        assert verdict.passed and num_starts == 2, verdict
    finally:
        slot.close()


def test_a_lost_server_is_no_fault_of_the_programs(slot: Slot) -> None:
    slot._servers["tests"].process.kill()
    verdict = slot.judge(RIGHT, PROBLEM)
    assert verdict.outcome is Outcome.INFRASTRUCTURE
    assert slot.judge(RIGHT, PROBLEM).passed


def test_a_process_that_cannot_shut_itself_in_is_no_fault_of_the_programs() -> None:
    slot = Slot("process", Limits(cpu=2, wall=60.0))
    try:
        folder = slot._servers["candidate"]._folder
        assert folder is not None and slot.judge(RIGHT, PROBLEM).passed
        folder.cleanup()  # the one that waits may be in its folder already, the next finds no place for one
        verdict = slot.judge(RIGHT, PROBLEM)
        verdict = slot.judge(RIGHT, PROBLEM) if verdict.passed else verdict
        assert verdict.outcome is Outcome.INFRASTRUCTURE, verdict
        assert "could not be shut in" in verdict.detail and "No such file" in verdict.detail
        assert slot.judge(RIGHT, PROBLEM).passed  # with new servers
    finally:
        slot.close()


@pytest.mark.parametrize("isolation", [*ENGINES, "process"])
def test_a_server_is_not_ready_before_a_process_has_shut_itself_in(isolation: Isolation) -> None:
    """A limit that no kernel takes, which only processes of programs set."""
    with pytest.raises(SandboxUnavailable, match="too large"):
        Slot(isolation, Limits(cpu=1 << 70))


def test_what_is_not_foreseen_is_no_fault_of_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors are left after the candidate has begun: it must not answer the next program's tests."""
    slot = Slot("process", Limits(cpu=2, wall=60.0))
    start = Server.start
    try:
        for kind in ("function", "stdin"):
            problem = Problem("x", kind, tests=TESTS, functions=("f",), cases=(("", ""),))

            def start_and_fail(self: Server, *arguments: Any) -> None:
                start(self, *arguments)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

            with monkeypatch.context() as patch:
                patch.setattr(Server, "start", start_and_fail)
                verdict = slot.judge("while True: pass", problem)
            assert verdict.outcome is Outcome.INFRASTRUCTURE, verdict
            assert "Too many open files" in verdict.detail and not slot._servers
            assert slot.judge(RIGHT, problem).passed
    finally:
        slot.close()


@pytest.mark.parametrize("text", ["x = '\ud800'\n", "x = '\udc80'\n", "\udfff"])
def test_a_program_that_is_no_text_fails(slot: Slot, text: str) -> None:
    for problem in (PROBLEM, Problem("prints", "stdin", cases=(("", ""),))):
        verdict = slot.judge(text + RIGHT, problem)
        assert verdict.outcome is Outcome.FAILED, verdict
    assert slot.judge(RIGHT, PROBLEM).passed


def test_a_slot_whose_second_server_is_refused_ends_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    us = psutil.Process()
    before, others = us.num_fds(), set(us.children())
    start = Slot._server

    def refuse_tests(self: Slot, role: Role) -> Server:
        if role == "tests":
            raise SandboxUnavailable("no", is_denied=False)
        return start(self, role)

    monkeypatch.setattr(Slot, "_server", refuse_tests)
    with pytest.raises(SandboxUnavailable) as caught:
        Slot("process", Limits())
    assert set(us.children()) == others and us.num_fds() == before, caught


def test_many_at_once_in_order_and_all_servers_end() -> None:
    us = psutil.Process()
    before, others = us.num_fds(), set(us.children())
    programs = [RIGHT if n % 3 else "def f(x): return x" for n in range(40)]
    with Judge(3, Limits(cpu=2, wall=60.0)) as judge:
        servers = set(us.children()) - others
        verdicts = list(judge.verdicts((program, PROBLEM) for program in programs))
        below = [process for server in servers for process in server.children(recursive=True)]
    assert [verdict.passed for verdict in verdicts] == [n % 3 > 0 for n in range(40)]
    assert len(servers) == 6 and len(below) >= 6
    _, alive = psutil.wait_procs([*servers, *below], timeout=10)
    assert alive == []
    assert us.num_fds() == before


def test_a_killed_supervisor_leaves_nothing_behind(repository_root: Path) -> None:
    script = (
        "from megatron_dream.sandbox import *\n"
        "p = Problem('x', tests='f(1)', functions=('f',))\n"
        "with Judge(2) as judge:\n"
        "    waiting = [judge.submit('import os\\nos.fork()\\nwhile True: pass', p) for _ in range(2)]\n"
        "    print('up', flush=True)\n"
        "    [one.result() for one in waiting]\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, cwd=repository_root, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        time.sleep(0.5)
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) > 4
        process.kill()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert alive == []


def test_what_is_no_denial_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bubblewrap would work here: it is not what is amiss."""
    monkeypatch.setattr(
        "megatron_dream.sandbox.engine.library_paths", lambda: ["/no/such/folder", "/usr/lib"]
    )
    with pytest.raises(SandboxUnavailable, match="/no/such/folder: No such file") as caught:
        Judge(1)
    assert not caught.value.is_denied and "sysctl" not in str(caught.value)


@pytest.mark.parametrize("isolation", [*ENGINES, "process"])
def test_the_last_words_of_a_server_are_told(
    monkeypatch: pytest.MonkeyPatch, isolation: Isolation
) -> None:
    monkeypatch.setattr(
        "megatron_dream.sandbox.engine._BOOTSTRAP", "print(1 / 0)  # not in {folder}"
    )
    with pytest.raises(SandboxUnavailable, match="ZeroDivisionError: division by zero") as caught:
        Slot(isolation, Limits())
    assert not caught.value.is_denied and "sysctl" not in str(caught.value)


def test_without_namespaces_right_and_wrong_are_still_told_apart() -> None:
    slot = Slot("process", Limits(cpu=1, wall=60.0))
    try:
        assert slot.judge(RIGHT, PROBLEM).passed
        for name in (
            "always equal",
            "walks the frames for the tests",
            "leaves before the assertions",
        ):
            assert not slot.judge(ATTACKS[name], PROBLEM).passed
        assert slot.judge("def f(x):\n    while True: pass", PROBLEM).outcome is Outcome.TIMEOUT
    finally:
        slot.close()


def human_eval(data: Path) -> list[dict]:
    with gzip.open(data / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def test_human_evals_solutions_pass_and_stubs_do_not(shared_data: Path) -> None:
    lines = human_eval(shared_data)
    problems = [problem_of(line, line["task_id"]) for line in lines]
    right = [line["prompt"] + line["canonical_solution"] for line in lines]
    stubs = [line["prompt"] + "    return None\n" for line in lines]
    with Judge() as judge:
        good = list(judge.verdicts(zip(right, problems, strict=True)))
        bad = list(judge.verdicts(zip(stubs, problems, strict=True)))
    wrong = [(p.task_id, v) for p, v in zip(problems, good, strict=True) if not v.passed]
    assert wrong == [] and len(good) == 164
    assert [p.task_id for p, v in zip(problems, bad, strict=True) if v.passed] == []
