"""Turn YAML nodes into the types that a dataclass declares, and say exactly where one does not fit.

Works on composed nodes, not on loaded values: a node still knows its line and what was written, so
``1e-5`` (text to PyYAML) is a float here, ``010`` is not silently octal, no tag builds an object.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol

import yaml

from megatron_dream.errors import ConfigError

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"
_DIGITS_LIMIT = 30  # longer is no size; Python itself refuses to read very long ones
_FOUND_LIMIT = 60  # characters of a wrong value that an error repeats


@dataclass(frozen=True)
class Place:
    """A field's dotted path and where its value was written."""

    path: str
    file: str | None = None  # None: a flag of the command line

    def child(self, name: str | int) -> Place:
        """The place of a field or list entry inside this one."""
        return Place(f"{self.path}.{name}" if self.path else str(name), self.file)

    def at(self, node: yaml.Node) -> str:
        """``file:line: path`` or the flag, to begin an error with."""
        if self.file is None:
            return f"--{self.path}"
        position = f"{self.file}:{node.start_mark.line + 1}"
        return f"{position}: {self.path}" if self.path else position


class OwnForm(Protocol):
    """A type that is written otherwise than as a mapping of its fields, and reads itself.

    Attributes:
        description: how it is written, for error messages.
    """

    description: ClassVar[str]

    @classmethod
    def from_node(cls, node: yaml.Node, place: Place, converter: Converter) -> Any:
        """The value of a node; raises ConfigError as ``Converter.convert`` does."""

    def to_plain(self) -> Any:
        """The plain values that ``from_node`` reads back."""


def has_own_form(kind: Any) -> bool:
    """Whether a type, or a value's type, is one of ``OwnForm``."""
    return hasattr(kind, "from_node") and hasattr(kind, "to_plain")


def to_plain(value: Any) -> Any:
    """A configuration as plain values that ``Converter`` reads back to an equal one."""
    if has_own_form(value):
        return value.to_plain()
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [to_plain(entry) for entry in value] if isinstance(value, list) else value


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name most like ``name``; None only where there is none at all."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)
    return matches[0] if matches else None


def field_types(cls: type) -> dict[str, Any]:
    """Declared type of each field of a dataclass, in order."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def leaf_paths(cls: type, prefix: str = "") -> list[str]:
    """Dotted path of every field below ``cls`` that is not itself a section."""
    paths: list[str] = []
    for name, kind in field_types(cls).items():
        path = f"{prefix}{name}"
        is_section = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        paths += leaf_paths(kind, f"{path}.") if is_section else [path]
    return paths


def unknown_field(where: str, name: str, cls: type, root: type, prefix: str) -> ConfigError:
    """An error that names the nearest valid field: of the same section, else of any.

    Args:
        where: beginning of the sentence, as ``Place.at`` gives it.
        name: what was written.
        cls: the dataclass it was written in.
        root: the whole configuration.
        prefix: dotted path of ``cls`` with its last dot, or nothing.
    """
    names = list(field_types(cls))
    elsewhere = [path for path in leaf_paths(root) if path.rsplit(".", 1)[-1] == name]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return ConfigError(f"{where} is not a field; the nearest one is {prefix}{close[0]}.")
    guess = elsewhere[0] if elsewhere else f"{prefix}{nearest(name, names)}"
    return ConfigError(
        f"{where} is not a field; the nearest one is {guess} (known here: {', '.join(names)})."
    )


def describe(kind: Any) -> str:
    """A type in the words of an error message."""
    options = typing.get_args(kind)
    if _is_optional(kind):
        inner = next(option for option in options if option is not type(None))
        return f"{describe(inner)} or null"
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    if origin is list:
        return f"a list, each entry {describe(options[0])}"
    if has_own_form(kind):
        return str(kind.description)
    if dataclasses.is_dataclass(kind):
        return "a mapping of fields"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words[kind]


class Converter:
    """Convert nodes for one configuration class.

    Args:
        root: the whole configuration's dataclass, searched for the nearest name.
        given: receives, by dotted path, where every field was written.
    """

    def __init__(self, root: type, given: dict[str, str]) -> None:
        self.root = root
        self.given = given

    def convert(self, node: yaml.Node, kind: Any, place: Place) -> Any:
        """The value of ``node`` as ``kind``.

        Raises:
            ConfigError: the value has another type; names place, expectation and what was found.
        """
        if _is_optional(kind):
            if node.tag == _TAG + "null":
                return None
            kind = next(o for o in typing.get_args(kind) if o is not type(None))
        if has_own_form(kind):
            return kind.from_node(node, place, self)
        if dataclasses.is_dataclass(kind):
            return self._dataclass(node, typing.cast(type, kind), place)
        if typing.get_origin(kind) is list:
            return self._list(node, kind, place)
        if typing.get_origin(kind) is typing.Literal:
            return _literal(node, kind, place)
        return _SCALARS[kind](node, place)

    def _dataclass(self, node: yaml.Node, cls: type, place: Place) -> Any:
        if node.tag == _TAG + "null" and place.file is not None:
            return cls()  # a section whose lines are all comments
        if not isinstance(node, yaml.MappingNode):
            _refuse(node, cls, place)
        values: dict[str, Any] = {}
        kinds = field_types(cls)
        first_line: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{place.at(key)}: a key is not a name; write field: value.")
            name = str(key.value)
            inside = place.child(name)
            if name in first_line:
                line = f" (first on line {first_line[name]})" if place.file else ""
                raise ConfigError(f"{inside.at(key)} is given twice{line}; keep one of them.")
            if name not in kinds:
                prefix = f"{place.path}." if place.path else ""
                raise unknown_field(inside.at(key), name, cls, self.root, prefix)
            first_line[name] = key.start_mark.line + 1
            self.given[inside.path] = inside.at(key)
            values[name] = self.convert(value, kinds[name], inside)
        return cls(**values)

    def _list(self, node: yaml.Node, kind: Any, place: Place) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            _refuse(node, kind, place)
        entry = typing.get_args(kind)[0]
        return [self.convert(n, entry, place.child(i)) for i, n in enumerate(node.value)]


def _is_optional(kind: Any) -> bool:
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return is_union and type(None) in typing.get_args(kind)


def _refuse(node: yaml.Node, kind: Any, place: Place, hint: str = "") -> NoReturn:
    if isinstance(node, yaml.ScalarNode):
        text = str(node.value)
        short = text if len(text) <= _FOUND_LIMIT else text[:_FOUND_LIMIT] + "..."
        found = "null" if node.tag == _TAG + "null" else f"{short!r}"
    else:
        found = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    raise ConfigError(f"{place.at(node)} must be {describe(kind)}, found {found}{hint}.")


def _plain(node: yaml.Node) -> str | None:
    """Text of a scalar written without quotes and without a tag of its own."""
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return str(node.value) if is_plain else None


def _boolean(node: yaml.Node, place: Place) -> bool:
    text = _plain(node)
    if text is None or node.tag != _TAG + "bool":
        _refuse(node, bool, place)
    return text.lower() in ("true", "yes", "on")


def _integer(node: yaml.Node, place: Place) -> int:
    text = _plain(node)
    if text is None or len(text) > _DIGITS_LIMIT or not _INTEGER.fullmatch(text):
        _refuse(node, int, place)
    return int(text.replace("_", ""))


def _float(node: yaml.Node, place: Place) -> float:
    text = _plain(node)
    if text is None or not _FLOAT.fullmatch(text):
        _refuse(node, float, place)
    value = float(text.replace("_", ""))
    if not math.isfinite(value):
        _refuse(node, float, place, "; it is too large for a float")
    return value


def _text(node: yaml.Node, place: Place) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != _TAG + "str":
        scalar = isinstance(node, yaml.ScalarNode) and node.tag != _TAG + "null"
        _refuse(node, str, place, "; put it in quotes" if scalar else "")
    return str(node.value)


def _literal(node: yaml.Node, kind: Any, place: Place) -> Any:
    options = typing.get_args(kind)
    text = str(node.value) if isinstance(node, yaml.ScalarNode) else None
    for option in options:
        if text == str(option):
            return option
    guess = nearest(text, map(str, options)) if text else None
    _refuse(node, kind, place, f"; the nearest one is {guess}" if guess else "")


_SCALARS: dict[Any, Callable[[yaml.Node, Place], Any]] = {
    bool: _boolean,
    int: _integer,
    float: _float,
    str: _text,
}
