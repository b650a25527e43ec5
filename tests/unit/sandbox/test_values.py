"""Values that cross between the tests' and the candidate's process: types, aliases, hostile texts."""

from __future__ import annotations

import collections
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.sandbox.inside.values import CannotCross, Reader, Writer

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 60, max_value=1 << 5000)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.fractions()
    | st.dates()
    | st.datetimes().map(lambda moment: moment.replace(fold=0))
    | st.timedeltas()
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3))
)
HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    dicts = st.dictionaries(HASHABLE, inner, max_size=3)
    return (
        lists
        | lists.map(tuple)
        | dicts
        | dicts.map(collections.OrderedDict)
        | dicts.map(lambda pairs: collections.defaultdict(list, pairs))
        | lists.map(lambda items: collections.deque(items, maxlen=5))
        | st.sets(HASHABLE, max_size=3)
        | st.lists(HASHABLE, max_size=5).map(collections.Counter)
        | st.binary().map(bytearray)
    )


VALUES = st.recursive(SCALARS, containers, max_leaves=12)


def there(value: Any) -> Any:
    return Reader().value(Writer().text(value))


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all through."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(x, y) for x, y in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, (list, tuple, collections.deque)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return bool(a == b)


@settings(deadline=None, max_examples=300)
@given(VALUES)
def test_values_arrive_with_their_types(value: Any) -> None:
    assert same(there(value), value)
    assert not isinstance(value, collections.defaultdict) or there(value).default_factory is list


def test_not_a_number_arrives() -> None:
    assert math.isnan(there(math.nan))


def test_aliases_and_cycles_stay() -> None:
    inner: list[Any] = [1]
    outer = {"a": inner, "b": inner, "all": []}
    outer["all"].append(outer)  # type: ignore[attr-defined]
    back = there(outer)
    assert back["a"] is back["b"] and back["all"][0] is back


@settings(deadline=None, max_examples=200)
@given(st.lists(VALUES, max_size=4), st.data())
def test_changes_are_made_in_place(arguments: list[Any], data: st.DataObject) -> None:
    """As candidate.py and checker.py do it: one side changes its copy, the other's own objects follow."""
    writer = Writer()
    sent = json.loads(json.dumps([writer.tree(argument) for argument in arguments]))
    reader = Reader()
    copies = [reader.of(tree) for tree in sent]
    for value in list(reader.objects):
        if data.draw(st.booleans()):
            if isinstance(value, list):
                value.insert(0, [value, 7])
            elif isinstance(value, set):
                value.add("new")
            elif isinstance(value, dict):
                value["new"] = value
    back = Writer(reader.objects)
    changes = json.loads(json.dumps([[n, back.contents(n)] for n in range(len(reader.objects))]))
    home = Reader(writer.objects)
    identities = [id(value) for value in writer.objects]
    for number, contents in changes:
        home.refill(number, contents)
    assert [id(value) for value in home.objects[: len(identities)]] == identities
    assert drawn(arguments, ()) == drawn(copies, ())


def drawn(value: Any, above: tuple[int, ...]) -> Any:
    """A form that can be compared where a value contains itself; sets have no order."""
    if id(value) in above:
        return ("above", above.index(id(value)))
    above = (*above, id(value))
    if isinstance(value, dict):
        return [type(value), [(drawn(k, above), drawn(v, above)) for k, v in value.items()]]
    if isinstance(value, (set, frozenset)):
        return [type(value), sorted(repr(drawn(item, above)) for item in value)]
    if isinstance(value, (list, tuple, collections.deque)):
        return [type(value), [drawn(item, above) for item in value]]
    return [type(value), repr(value)]


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class LyingList(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([99])


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Liar(3), 3),
        (LyingList([1, 2]), [1, 2]),
        ({1: 2}.keys(), {1: 2}.keys()),
        ({1: 2}.items(), {1: 2}.items()),
        (type("S", (str,), {"__str__": lambda self: "no"})("yes"), "yes"),
        (Point(1, [2]), (1, [2])),
    ],
)
def test_of_a_class_of_ones_own_the_plain_value_crosses(value: Any, wanted: Any) -> None:
    found = there(value)
    assert found == wanted and not isinstance(found, (Liar, LyingList))


def test_a_named_tuple_keeps_its_names() -> None:
    assert there(Point(1, 2)).y == 2


def test_iterators_are_lists_on_the_way_and_iterators_again() -> None:
    found = there(map(str, range(3)))
    assert iter(found) is found and list(found) == ["0", "1", "2"]
    with pytest.raises(CannotCross, match="more than"):
        Writer().text(iter(lambda: 1, 2))


@pytest.mark.parametrize("value", [object(), len, type, lambda: 1, [object()], {"a": {1: print}}])
def test_what_is_not_plain_does_not_cross(value: Any) -> None:
    with pytest.raises(CannotCross):
        Writer().text(value)


def test_what_is_nested_too_deeply_does_not_cross() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(CannotCross, match="deep"):
        Writer().text(value)
    with pytest.raises(CannotCross):
        Reader().value("[" * 100_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)
NAMES = st.sampled_from(
    "new same int float tuple frozenset complex bytes range Fraction Decimal date namedtuple iterator "
    "dict_items timedelta list dict set deque Counter defaultdict".split()
)


@settings(deadline=None, max_examples=500)
@given(JSON | st.lists(NAMES | JSON, max_size=6))
def test_hostile_texts_are_refused_or_plain(tree: Any) -> None:
    try:
        value = Reader().value(json.dumps(tree))
    except CannotCross:
        return
    assert same(there(value), there(value)) or value is None or repr(value)


@pytest.mark.parametrize(
    "tree",
    [
        ["datetime", "2024-02-29T01:02:03+00:00"],
        ["datetime", "2024-02-29T01:02:03Z"],
        ["time", "01:02:03+05:30"],
        ["new", 0, "list", None, [["time", "01:02:03+05:30"]]],
    ],
)
def test_what_no_writer_writes_is_not_read(tree: Any) -> None:
    """Else it would be the tests' fault when they hand it on."""
    with pytest.raises(CannotCross):
        Reader().of(tree)


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_is_refused_or_read(text: str) -> None:
    try:
        Reader().value(text)
    except CannotCross:
        pass
