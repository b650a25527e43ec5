"""Parseability: Python that parses, that does not, that attacks the parser; other languages."""

import os
import signal

import pytest

from megatron_dream.data.filters import build_filters
from megatron_dream.data.filters.parsing import PythonParser
from megatron_dream.errors import DataError
from tests.unit.data.filters.documents import document


@pytest.fixture(scope="module")
def chain():
    return build_filters(["parseable"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1\n",
        "print('a')",
        "match x:\n    case [1, *_]:\n        pass\n",
        "async def f():\n    return [x async for x in y]",
        "def f(a, /, b, *, c): return a if (n := b) else c",
        "\ufeffx = 1",
        "# -*- coding: latin-1 -*-\nx = 'é'",
        "s = '\\d'",  # only a warning
        "x = 'print \"hello\"'",
        "résumé = 'ünï'\r\nif résumé:\r\n    pass\r\n",
        "x = " + "+".join("1" * 500),
        "assert (x, 'always true')",
    ],
)
def test_python_that_parses_stays(chain, text):
    assert chain.apply(document(text)) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(:\n", "Python that does not parse"),
        ("if x:\nprint(1)", "Python that does not parse"),
        ("x = (1", "Python that does not parse"),
        ("<html></html>", "Python that does not parse"),
        ("This is a sentence.", "Python that does not parse"),
        ("Use the `x` option here.", "Python that does not parse"),
        ("if x:\n\ty\n        z\n", "Python that does not parse"),
        ("x = 'a\0b'", "Python with NUL"),
        ("x = '\ud800'", "Python with lone surrogates"),
        ("print 'hello'", "Python 2"),
        ("print x", "Python 2"),
        ("exec 'x = 1'", "Python 2"),
        ("try:\n    f()\nexcept IOError, e:\n    pass", "Python 2"),
        ("raise ValueError, 'no'", "Python 2"),
        ("mode = 0755", "Python 2"),
        ("n = 10L", "Python 2"),
        ("n = 0xFFL", "Python 2"),
        ("s = ur'x'", "Python 2"),
        ("if a <> b: pass", "Python 2"),
        ("s = `x`", "Python 2"),
        ("def f(a, (b, c)): pass", "Python 2"),
    ],
)
def test_what_does_not_parse_goes(chain, text, reason):
    assert chain.apply(document(text)) == reason


def test_python_2_can_be_kept():
    chain = build_filters([{"parseable": {"python2": "keep"}}])
    assert chain.apply(document("print 'hello'")) is None
    assert chain.apply(document("def f(:")) == "Python that does not parse"
    assert chain.counters()["filters"][0]["details"] == {"Python 2 kept": 1}


def test_other_languages_are_skipped_by_name():
    chain = build_filters(["parseable"])
    for file in ("a.js", "b.js", "c.rs", "README", "x.jsonl"):
        assert chain.apply(document("def f(:", file)) is None
    assert chain.apply(document("def f(:", "x.jsonl", language="Python")) is not None
    assert chain.counters()["filters"][0]["details"] == {
        "not parsed: javascript": 2,
        "not parsed: language unknown": 2,
        "not parsed: rust": 1,
    }
    assumed = build_filters([{"parseable": {"assume": "python"}}])
    assert assumed.apply(document("def f(:", "x.jsonl")) is not None


HOSTILE = {
    "brackets": "(" * 100_000,
    "closed brackets": "[" * 5000 + "]" * 5000,
    "nested calls": "f(" * 190 + ")" * 190,
    "nested, broken": "f(" * 150 + "x for" + ")" * 150,
    "dictionaries": "{1:" * 150 + "}" * 149,
    "signs": "-" * 200_000 + "1",
    "nots": "not " * 50_000 + "x",
    "sum": "1" + "+1" * 100_000,
    "attributes": "a" + ".b" * 100_000,
    "subscripts": "a" + "[0]" * 100_000,
    "powers": "9" + "**9" * 2000,
    "huge number": "x = " + "9" * 1_000_000,
    "huge hexadecimal": "x = 0x" + "f" * 1_000_000,
    "huge product": "x = 'a' * 10 ** 10",
    "huge shift": "x = 1 << 10 ** 10",
    "indents": "".join(" " * n + "if x:\n" for n in range(200)) + " " * 200 + "pass",
    "lambdas": "lambda: " * 50_000 + "1",
    "conditions": "x if y else " * 50_000 + "z",
    "f-strings": "f'{" * 50 + "}'" * 50,
    "lines": "\n" * 1_000_000,
    "backslashes": "\\\n" * 100_000 + "x",
    "elifs": "if x: pass\n" + "elif x: pass\n" * 20_000,
    "strings": "'a' " * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_python_neither_hangs_nor_crashes(chain, name):
    chain.apply(document(HOSTILE[name]))
    assert chain.apply(document("x = 1")) is None  # and the parser is well again
    assert chain.apply(document("x = (")) is not None


def test_a_text_over_the_limit_is_not_parsed():
    chain = build_filters([{"parseable": {"max_bytes": 10}}])
    assert chain.apply(document("x = '" + "é" * 3 + "'")) == "Python over 10 bytes"
    assert chain.apply(document("x = 12345")) is None


def test_a_text_that_takes_too_long_is_dropped():
    parser = PythonParser(cpu_seconds=0.05)
    assert parser.parse(b"x = [" + b"(a + b * c[1:2]) , " * 150_000 + b"]") == ("Time", "", "")
    assert parser.parse(b"x = 1") is None


def die_of(number, times):
    """A parser whose child dies of a signal when it is first asked, so many times."""

    class Dying(PythonParser):
        left = times

        def _start(self):
            super()._start()
            if self.left:
                self.left -= 1
                os.kill(self._child.pid, number)
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)

    return Dying(60)


def test_a_crash_is_the_texts_and_a_kill_is_not():
    assert die_of(signal.SIGSEGV, 1).parse(b"x = 1") == ("Crash", "", "")
    assert die_of(signal.SIGKILL, 1).parse(b"x = 1") is None
    with pytest.raises(DataError, match="killed twice"):
        die_of(signal.SIGKILL, 2).parse(b"x = 1")


def test_a_fork_has_a_parser_of_its_own(chain):
    chain.apply(document("x = 1"))
    (parents,) = (one._parser._child.pid for one in chain.filters)
    child = os.fork()
    if child == 0:
        good = chain.apply(document("x = (")) is not None and chain.apply(document("y = 2")) is None
        good = good and chain.filters[0]._parser._child.pid != parents
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert chain.apply(document("x = 1")) is None
