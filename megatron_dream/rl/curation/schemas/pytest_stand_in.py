"""What KodCode's tests use of pytest, for a sandbox that has the standard library only.

The text of this file is put before tests that import pytest; it is run beside them, shut in. There are
``raises``, ``approx`` for numbers, lists and dicts, ``mark.parametrize`` (other marks do nothing),
``fail`` and ``main``; a fixture is refused. Test functions stay functions without arguments.
"""

import math as _math
import re as _re
import sys as _sys
import types as _types


class _Raises:
    def __init__(self, kinds, match=None):
        self.kinds, self.match, self.value = kinds, match, None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            raise AssertionError(f"did not raise {self.kinds}")
        self.type, self.value = kind, error
        if not issubclass(kind, self.kinds):
            return False
        if self.match is not None and not _re.search(self.match, str(error)):
            raise AssertionError(f"{error} does not match {self.match}")
        return True


def _raises(kinds, *arguments, match=None, **named):
    context = _Raises(kinds, match)
    if arguments:
        with context:
            arguments[0](*arguments[1:], **named)
    return context


class _Approx:
    def __init__(self, wanted, rel=None, abs=None, nan_ok=False):
        self.wanted, self.options = wanted, (rel, abs, nan_ok)

    def _same(self, got, wanted):
        if isinstance(wanted, dict):
            return (
                isinstance(got, dict)
                and got.keys() == wanted.keys()
                and all(self._same(got[key], wanted[key]) for key in wanted)
            )
        if isinstance(wanted, (list, tuple)):
            try:  # pytest asks for a length and for items, not for a list
                return len(got) == len(wanted) and all(map(self._same, got, wanted))
            except TypeError:
                return False
        if isinstance(wanted, bool) and not isinstance(got, bool):
            return False
        if got == wanted:
            return True
        numbers = (int, float, complex)
        if not isinstance(wanted, numbers) or not isinstance(got, numbers):
            return False
        relative, absolute, nan_ok = self.options
        if got != got or wanted != wanted:
            return nan_ok and got != got and wanted != wanted
        if abs(wanted) == _math.inf or abs(got) == _math.inf:
            return False
        if absolute is None:
            absolute = 1e-12
        elif relative is None:
            relative = 0.0
        return abs(got - wanted) <= max(
            absolute, (1e-6 if relative is None else relative) * abs(wanted)
        )

    def __eq__(self, got):
        return self._same(got, self.wanted)

    __hash__ = None


def _parametrize(names, values, ids=None):
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    def decorate(function):
        def run(**given):
            for value in values:
                row = value if len(names) > 1 else [value]
                function(**dict(zip(names, row, strict=True)), **given)

        run.__name__ = function.__name__
        return run

    return decorate


class _Marks:
    parametrize = staticmethod(_parametrize)

    def __getattr__(self, name):
        def mark(*arguments, **named):
            if len(arguments) == 1 and not named and isinstance(arguments[0], _types.FunctionType):
                return arguments[0]
            return lambda function: function

        return mark


def _fail(reason="", pytrace=True):
    raise AssertionError(reason)


_module = _types.ModuleType("pytest")
_module.raises, _module.approx, _module.mark = _raises, _Approx, _Marks()
_module.fail, _module.main = _fail, lambda *arguments, **named: 0
_sys.modules["pytest"] = _module
