"""The stand-in for pytest does to tests what pytest does: both run here."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.rl.curation.schemas.kodcode import _STAND_IN, _with_stand_in


@pytest.fixture(scope="module")
def stand_in() -> Iterator[types.ModuleType]:
    ours = sys.modules["pytest"]
    try:
        exec(compile(_STAND_IN, "stand-in", "exec"), {"__name__": "tests"})
        yield sys.modules["pytest"]
    finally:
        sys.modules["pytest"] = ours


@pytest.fixture(params=["pytest", "stand-in"])
def module(request: pytest.FixtureRequest, stand_in: types.ModuleType) -> Any:
    return pytest if request.param == "pytest" else stand_in


def fails(call: Any) -> bool:
    try:
        call()
    except BaseException as error:  # pytest's failures are no Exceptions
        return not isinstance(error, KeyboardInterrupt)
    return False


def test_raises(module: Any) -> None:
    with module.raises((KeyError, ValueError), match="wr.ng") as info:
        raise ValueError("wrong")
    assert info.type is ValueError and str(info.value) == "wrong"
    module.raises(ZeroDivisionError, lambda x: 1 / x, 0)

    def nothing() -> None:
        with module.raises(ValueError):
            pass

    def another() -> None:
        with module.raises(ValueError):
            raise KeyError

    def words() -> None:
        with module.raises(ValueError, match="right"):
            raise ValueError("wrong")

    assert fails(nothing) and fails(another) and fails(words)
    assert fails(lambda: module.fail("no"))


_numbers = st.sampled_from(
    [0, 1, -1, 1.0, 1 + 1e-7, 1 + 1e-5, 1e-13, 1e9, 1e9 + 1, 1e9 + 1e4, 2.5, True]
)
_numbers |= st.sampled_from([float("inf"), -float("inf"), float("nan"), 1j, 1e300, -1e300])
_values = (
    _numbers | st.lists(_numbers, max_size=2) | st.dictionaries(st.sampled_from("ab"), _numbers)
)
_options = st.fixed_dictionaries(
    {}, optional={"rel": st.sampled_from([1e-3, 0.0]), "abs": st.sampled_from([1e-3, 0.0])}
)


@given(_values, _values, _options)
def test_approx(stand_in: types.ModuleType, got: Any, wanted: Any, options: dict[str, Any]) -> None:
    assert (got == stand_in.approx(wanted, **options)) == (got == pytest.approx(wanted, **options))


def test_parametrize_runs_every_row(stand_in: types.ModuleType) -> None:
    seen = []

    @stand_in.mark.slow
    @stand_in.mark.parametrize("a, b", [(1, 2), (3, 4)])
    @stand_in.mark.parametrize("c", [5, 6], ids=["x", "y"])
    def test_it(a: int, b: int, c: int) -> None:
        seen.append((a, b, c))

    @stand_in.mark.timeout(3)
    def test_other() -> None:
        seen.append((0, 0, 0))

    assert isinstance(test_it, types.FunctionType) and isinstance(test_other, types.FunctionType)
    test_it()
    test_other()
    assert seen == [(1, 2, 5), (1, 2, 6), (3, 4, 5), (3, 4, 6), (0, 0, 0)]


def test_only_tests_that_import_pytest_get_it() -> None:
    assert _with_stand_in("from solution import f\n") == "from solution import f\n"
    for line in ("import pytest\n", "from pytest import approx\n"):
        assert _with_stand_in(line).endswith(line) and "_Raises" in _with_stand_in(line)
