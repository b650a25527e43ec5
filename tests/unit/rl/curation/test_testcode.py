"""Checks and called functions, told from syntax."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.rl.curation.testcode import called_names, num_checks, without_final_check


@pytest.mark.parametrize(
    ("tests", "count"),
    [
        ("assert f(1) == 2\nassert f(2) == 3\n", 2),
        ("def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2)\n", 2),
        ("def test_a():\n    assert f(1)\n\ndef test_b():\n    assert f(2)\n    assert f(3)\n", 3),
        ("def test_a():\n    with raises(ValueError):\n        f(1)\n", 1),
        ("def check_f():\n    assert f(1)\n    assert f(2)\n\ncheck_f()\n", 2),
        ("def never():\n    assert f(1)\n", 0),
        ("def one(a, b):\n    assert f(a) == b\n\none(1, 2)\none(2, 3)\none(3, 4)\n", 3),
        ("for a in [1, 2, 3, 4, 5]:\n    assert f(a)\n", 5),
        ("IN = [1, 2, 3]\nOUT = [1, 2, 3]\nfor a, b in zip(IN, OUT):\n    assert f(a) == b\n", 3),
        ("for a, b in {1: 2, 3: 4}.items():\n    assert f(a) == b\n", 2),
        ("for i, a in enumerate((1, 2, 3)):\n    assert f(a)\n    assert f(i)\n", 6),
        ("for a in cases():\n    assert f(a)\n", 1),
        (
            "@pytest.mark.parametrize('a,b', [(1, 2), (3, 4)])\ndef test_a(a, b):\n    assert f(a) == b\n",
            2,
        ),
        ("@m.parametrize('a', [1, 2, 3])\ndef test_a(a):\n    with raises(E):\n        f(a)\n", 3),
        ("@cached\ndef test_a():\n    assert f(1)\n    assert f(2)\n", 2),
        ("if True:\n    assert f(1)\n", 1),
        ("def test_a():\n    test_a()\n    assert f(1)\n", 1),
        # what the judge does not run: its __name__ is another
        ("if __name__ == '__main__':\n    assert f(1)\nelse:\n    assert f(2)\n", 1),
        ("if '__main__' == __name__:\n    assert f(1)\n", 0),
        ("def test_a():\n    assert f(1)\nif __name__ == '__main__':\n    test_a()\n", 1),
        # names are those of their scope, and of their place in the text
        (
            "def test_a():\n    xs = [1, 2]\n    for x in xs:\n        assert f(x)\n"
            "def test_b():\n    xs = [1, 2, 3, 4, 5]\n    for x in xs:\n        assert f(x)\n",
            7,
        ),
        ("xs = [1, 2, 3]\ndef test_a(xs=()):\n    for x in xs:\n        assert f(x)\n", 1),
        ("xs = [1, 2, 3]\ndef g():\n    xs = [1] * 9\nfor x in xs:\n    assert f(x)\n", 3),
        ("def test_a():\n    for x in XS:\n        assert f(x)\nXS = [1, 2, 3]\n", 3),
        (
            "xs = [1, 2]\nfor x in xs:\n    assert f(x)\nxs: list = sorted([1, 2, 3])\n"
            "for x in xs:\n    assert f(x)\n",
            5,
        ),
        ("xs = [1, 2, 3]\nxs = load()\nfor x in xs:\n    assert f(x)\n", 1),
        ("x = [1, 2]\nfor x in y:\n    for a in x:\n        assert f(a)\n", 1),
        # a test counts once, whoever calls it
        ("def test_a():\n    assert f(1)\n    assert f(2)\n\ntest_a()\ntest_a()\n", 2),
        ("def check(c):\n    assert c(1)\n\ncheck(f)\n", 1),
        ("def test_a():\n    assert f(1)\ndef test_all():\n    test_a()\n", 2),
        # a call of it only makes a generator
        ("def test_a():\n    assert f(1)\n    yield\n", 0),
        ("def test_a():\n    assert f(1)\n    g = lambda: (yield)\n", 1),
        ("async def test_a():\n    assert f(1)\n", 0),
        ("def f(:\n", 0),
        ("", 0),
        ("(" * 10_000, 0),
    ],
)
def test_checks_are_counted(tests: str, count: int) -> None:
    assert num_checks(tests) == count


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    assert num_checks(text) >= 0 and isinstance(called_names(text), tuple)


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        (
            "from solution import add, sub\n\ndef test_a():\n    assert add(1) == sub(2)\n",
            ("add", "sub"),
        ),
        ("import math\nassert f(math.pi) == len(g([1]))\n", ("f", "g")),
        ("def check(c):\n    assert c(1)\n\ncheck(Solution().two)\n", ("Solution.two",)),
        ("assert Solution().a(1) == Solution().b(2)\n", ("Solution.a", "Solution.b")),
        ("s = Solution()\nassert s.a(1)\n", ("Solution",)),
        ("for i, o in zip(X, Y):\n    assert f(*i) == o\nX = Y = []\n", ("f",)),
        ("try:\n    f()\nexcept ValueError as error:\n    print(error)\n", ("f",)),
        ("assert [x for x in f()] == sorted(f())\n", ("f",)),
        ("def f(:", ()),
    ],
)
def test_names_of_the_solution_are_found(tests: str, names: tuple[str, ...]) -> None:
    assert called_names(tests) == names


def test_names_that_the_prefix_gives_are_not_the_solutions() -> None:
    tests = "assert same(Solution().f(inf), 1)\n"
    given = "from math import inf\n\ndef same(a, b):\n    return a == b\n"
    assert called_names(tests, given) == ("Solution.f",)


def test_a_final_check_is_left_to_the_judge() -> None:
    checks = "def check(candidate):\n    assert candidate(1) == 2\n\n\n"
    assert without_final_check(checks + "check(Solution().f)") == (checks, "Solution().f")
    assert without_final_check(checks + "check_f()\n") == (checks + "check_f()\n", "")
    assert without_final_check("no python(") == ("no python(", "")
