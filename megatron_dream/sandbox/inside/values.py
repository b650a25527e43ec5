"""Plain values as text: what crosses between the tests' process and the candidate's.

A call's arguments go one way, its answer and what it changed in the arguments come back. Types are kept
exactly: a tuple is no list, True is not 1, a Counter is a Counter. What belongs to a class of the candidate's
own crosses as the plain value below it, or not at all, so that no code of the candidate's ever runs beside
the tests. Containers that can be changed are numbered: an argument that is given twice, or comes back as the
answer, is one object on both sides, and a change by the candidate is made in the tests' own object.

Runs on both sides, in processes that hold nothing else of this package; standard library only.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import fractions
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_ITEMS = 1_000_000  # of an iterator
_SMALL = 1 << 53  # larger integers cross in hexadecimal, which takes linear time
compact = json.JSONEncoder(separators=(",", ":")).encode
_FACTORIES: dict[str, Callable[[], Any]] = {
    kind.__name__: kind for kind in (int, float, str, bool, list, dict, set, tuple)
}
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


class CannotCross(TypeError):
    """A value that is not plain."""


class Writer:
    """Values to text, containers numbered in the order of their first appearance.

    Args:
        known: containers that the other side has, by number.
    """

    def __init__(self, known: Iterable[Any] = ()) -> None:
        self.objects: list[Any] = list(known)
        self._numbers = {id(value): number for number, value in enumerate(self.objects)}

    def text(self, value: Any) -> str:
        """Of one value.

        Raises:
            CannotCross: it holds something that is not plain, or is nested too deeply.
        """
        try:
            return compact(self.tree(value))
        except RecursionError:
            raise CannotCross("the value is nested too deeply") from None

    def contents(self, number: int) -> list[Any]:
        """The present contents of a numbered container, as lists and plain numbers and strings."""
        return self._contents(self.objects[number])

    def tree(self, value: Any) -> Any:
        """The value as lists, strings, numbers, true, false and null."""
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else ["int", hex(value)]
        if kind is float:
            return ["float", value.hex()]
        if kind in (tuple, frozenset):
            return [kind.__name__, [self.tree(item) for item in value]]
        if isinstance(value, (list, dict, set, bytearray, collections.deque)):
            return self._numbered(value)
        return self._rare(value)

    def _numbered(self, value: Any) -> list[Any]:
        number = self._numbers.get(id(value))
        if number is not None:
            return ["same", number]
        number = self._numbers[id(value)] = len(self.objects)
        self.objects.append(value)  # kept alive, or its id could be another's
        return ["new", number, *_shape_of(value), self._contents(value)]

    def _contents(self, value: Any) -> list[Any]:
        # The base class's own methods: a subclass may have others.
        if isinstance(value, dict):
            ordered = collections.OrderedDict
            kind: Any = ordered if isinstance(value, ordered) else dict
            return [[self.tree(key), self.tree(item)] for key, item in kind.items(value)]
        if isinstance(value, bytearray):
            return [bytes(value).hex()]
        base: Any = next(kind for kind in (list, set, collections.deque) if isinstance(value, kind))
        return [self.tree(item) for item in base.__iter__(value)]

    def _rare(self, value: Any) -> Any:
        kind = type(value)
        if kind is complex:
            return ["complex", value.real.hex(), value.imag.hex()]
        if isinstance(value, bytes):
            return ["bytes", bytes.hex(value)]
        if kind is range:
            return ["range", *(self.tree(part) for part in (value.start, value.stop, value.step))]
        if kind is fractions.Fraction:
            return ["Fraction", self.tree(value.numerator), self.tree(value.denominator)]
        if kind is decimal.Decimal:
            return ["Decimal", str(value)]
        if kind in (datetime.date, datetime.datetime, datetime.time) and not getattr(
            value, "tzinfo", None
        ):
            return [kind.__name__, value.isoformat()]
        if kind is datetime.timedelta:
            return ["timedelta", value.days, value.seconds, value.microseconds]
        if isinstance(value, tuple):
            fields = getattr(kind, "_fields", None)
            items = [self.tree(item) for item in tuple.__iter__(value)]
            if isinstance(fields, tuple) and len(fields) == len(items):
                return ["namedtuple", str(kind.__name__), [str(field) for field in fields], items]
            return ["tuple", items]
        if isinstance(value, frozenset):
            return ["frozenset", [self.tree(item) for item in frozenset.__iter__(value)]]
        if isinstance(value, int):  # an enumeration's member, a subclass
            return self.tree(int.__add__(value, 0))
        if isinstance(value, float):
            return ["float", float.hex(value)]
        if isinstance(value, str):
            return str.__add__(value, "")
        if kind in _VIEWS:
            return [kind.__name__, [self.tree(item) for item in value]]
        if hasattr(kind, "__next__") and hasattr(kind, "__iter__"):
            items = list(itertools.islice(value, MAX_ITEMS + 1))
            if len(items) > MAX_ITEMS:
                raise CannotCross(f"an iterator has more than {MAX_ITEMS} items")
            return ["iterator", [self.tree(item) for item in items]]
        raise CannotCross(f"a value of type {kind.__name__} is not plain")


def _shape_of(value: Any) -> tuple[str, Any]:
    """Name of the type, and what is to be known before its contents."""
    if isinstance(value, collections.defaultdict):
        factory = value.default_factory
        name = getattr(factory, "__name__", None)
        known = isinstance(name, str) and _FACTORIES.get(name) is factory
        return "defaultdict", name if known else None
    if isinstance(value, collections.deque):
        return "deque", value.maxlen
    for kind in (collections.Counter, collections.OrderedDict, dict, list, set, bytearray):
        if isinstance(value, kind):
            return kind.__name__, None
    raise AssertionError


_EMPTY: dict[str, Callable[[Any], Any]] = {
    "list": lambda _: [],
    "dict": lambda _: {},
    "set": lambda _: set(),
    "bytearray": lambda _: bytearray(),
    "Counter": lambda _: collections.Counter(),
    "OrderedDict": lambda _: collections.OrderedDict(),
    "defaultdict": lambda name: collections.defaultdict(_FACTORIES.get(name)),
    "deque": lambda maxlen: collections.deque(maxlen=maxlen),
}


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Whatever a hostile text leads to is one exception."""
    try:
        yield
    except CannotCross:
        raise
    except Exception as error:
        raise CannotCross(
            f"not a plain value as a writer has it ({type(error).__name__})"
        ) from None


class Reader:
    """Text to values.

    Args:
        known: containers that both sides have, by number.
    """

    def __init__(self, known: Iterable[Any] = ()) -> None:
        self.objects: list[Any] = list(known)

    def value(self, text: str) -> Any:
        """From the text of one value.

        Raises:
            CannotCross: the text is not a writer's.
        """
        with _refusing():
            return self._of(json.loads(text))

    def of(self, tree: Any) -> Any:
        """The value of a writer's tree.

        Raises:
            CannotCross: it is not a writer's.
        """
        with _refusing():
            return self._of(tree)

    def refill(self, number: int, contents: list[Any]) -> None:
        """Give a container that both sides have other contents, in place.

        Raises:
            CannotCross: the contents are not a writer's.
        """
        with _refusing():
            value = self.objects[number]
            items = [self._item(value, item) for item in contents]  # all read before any is lost
            value.clear()
            self._fill(value, items)

    def _of(self, tree: Any) -> Any:
        if tree is None or isinstance(tree, (bool, int, str)):
            return tree
        if not isinstance(tree, list):
            raise CannotCross("not a plain value")
        name, *parts = tree
        if name == "same":
            return self.objects[parts[0]]
        if name == "new":
            return self._new(*parts)
        return self._others(name, parts)

    def _new(self, number: int, name: str, shape: Any, contents: list[Any]) -> Any:
        if number != len(self.objects):
            raise CannotCross("containers are not numbered in order")
        value = _EMPTY[name](shape)
        self.objects.append(value)
        self._fill(value, (self._item(value, item) for item in contents))
        return value

    def _item(self, value: Any, item: Any) -> Any:
        if isinstance(value, dict):
            key, kept = item
            return self._of(key), self._of(kept)
        return bytes.fromhex(item) if isinstance(value, bytearray) else self._of(item)

    def _fill(self, value: Any, items: Iterable[Any]) -> None:
        for item in items:
            if isinstance(value, dict):
                value[item[0]] = item[1]
            elif isinstance(value, set):
                value.add(item)
            elif isinstance(value, bytearray):
                value.extend(item)
            else:
                value.append(item)

    def _others(self, name: str, parts: list[Any]) -> Any:
        if name == "int":
            return int(parts[0], 16)
        if name == "float":
            return float.fromhex(parts[0])
        if name == "complex":
            return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
        if name == "bytes":
            return bytes.fromhex(parts[0])
        if name == "range":
            return range(*(self._of(part) for part in parts))
        if name == "Fraction":
            return fractions.Fraction(self._of(parts[0]), self._of(parts[1]))
        if name == "Decimal":
            return decimal.Decimal(parts[0])
        if name in ("date", "datetime", "time"):
            moment = getattr(datetime, name).fromisoformat(parts[0])
            if getattr(moment, "tzinfo", None) is not None:
                raise CannotCross("a time zone is not plain")
            return moment
        if name == "timedelta":
            return datetime.timedelta(*parts)
        if name == "namedtuple":
            kind = collections.namedtuple(parts[0], parts[1])  # type: ignore[misc]
            return kind(*(self._of(item) for item in parts[2]))
        items = [self._of(item) for item in parts[0]]
        if name == "tuple":
            return tuple(items)
        if name == "frozenset":
            return frozenset(items)
        if name == "iterator":
            return iter(items)
        if name == "dict_keys":
            return dict.fromkeys(items).keys()
        if name == "dict_values":
            return dict(enumerate(items)).values()
        if name == "dict_items":
            return dict(items).items()
        raise CannotCross(f"{name!r:.40} is no type of a plain value")
