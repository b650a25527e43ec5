"""A sweep's YAML as plain values that know where they were written, and as a kind's typed fields.

``config/convert.py`` reads nodes into declared types; a kind gets its fields as plain values (base.py),
some of which have no declared type (an axis' values), so here the plain values keep their places.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from ...config.convert import Converter, Place, field_types, nearest
from ...errors import ConfigError

Declared = TypeVar("Declared")
COMMON = ("title", "question", "kind", "plot", "plots", "note")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
_SCALARS = ("bool", "float", "int", "null", "str", "timestamp", "value")


class Fields(dict[str, Any]):
    """A mapping of the YAML as plain values.

    Attributes:
        at: ``file:line: path`` of each value.
        node: it was made from.
    """

    description: ClassVar[str] = "a mapping of fields"
    at: Mapping[str, str]
    node: yaml.MappingNode | None

    def __init__(
        self, values: Mapping[str, Any] | None = None, at: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(values or {})
        self.at, self.node = at or {}, None

    @classmethod
    def from_node(cls, node: yaml.Node, place: Place, converter: Any = None) -> Fields:
        """A mapping; see ``plain``."""
        if isinstance(node, yaml.ScalarNode) and _scalar(node, place) is None:
            return cls()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{place.at(node)} must be {cls.description}; write name: value.")
        values = cls()
        at: dict[str, str] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{place.at(key)}: a key is not a name; write field: value.")
            inside = place.child(key.value)
            if key.value in values:
                raise ConfigError(f"{inside.at(key)} is given twice; keep one of them.")
            values[key.value] = plain(value, inside)
            at[key.value] = inside.at(key)
        values.at, values.node = at, node
        return values

    def to_plain(self) -> dict[str, Any]:
        """For ``config.convert``."""
        return dict(self)


class Entries(list[Any]):
    """A list of the YAML as plain values; ``at``: where each was written."""

    description: ClassVar[str] = "a list"
    at: Sequence[str] = ()

    @classmethod
    def from_node(cls, node: yaml.Node, place: Place, converter: Any = None) -> Entries:
        """A list, or one value that stands for a list of itself."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values = cls(plain(one, place.child(i)) for i, one in enumerate(nodes))
        values.at = [place.child(i).at(one) for i, one in enumerate(nodes)]
        return values

    def to_plain(self) -> list[Any]:
        """For ``config.convert``."""
        return list(self)


def plain(node: yaml.Node, place: Place) -> Any:
    """Mappings as ``Fields``, lists as ``Entries``, scalars as None, bool, int, float or text.

    Only ``true`` and ``false`` are bools (``off`` is a word of the sampler), ``1e-14`` is a number.

    Raises:
        ConfigError: a key is given twice, or a tag asks for an object.
    """
    if isinstance(node, yaml.MappingNode):
        return Fields.from_node(node, place)
    if isinstance(node, yaml.SequenceNode):
        return Entries.from_node(node, place)
    return _scalar(node, place)


def _scalar(node: yaml.Node, place: Place) -> str | int | float | bool | None:
    if node.tag.removeprefix("tag:yaml.org,2002:") not in _SCALARS:
        raise ConfigError(
            f"{place.at(node)}: the tag {node.tag} is not taken; write a plain value."
        )
    text = str(node.value)
    if node.style is not None:
        return text
    if text in _WORDS:
        return typing.cast("bool | None", _WORDS[text])
    if _INTEGER.fullmatch(text):
        return int(text)
    if not _FLOAT.fullmatch(text):
        return text
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ConfigError(
            f"{place.at(node)} is {text}, too large for a number; give a smaller one."
        )
    return value


def refuse_aliases(node: yaml.Node, file: str) -> None:
    """Refuse values that stand in several places: their errors would name one, and a loop has no end.

    Raises:
        ConfigError: an alias is in the file.
    """
    seen: set[int] = set()
    left = [node]
    while left:
        one = left.pop()
        if id(one) in seen:
            line = one.start_mark.line + 1
            raise ConfigError(f"{file}:{line}: an alias (*name) is used; write its value out.")
        seen.add(id(one))
        if isinstance(one, yaml.MappingNode):
            left += [part for pair in one.value for part in pair]
        elif isinstance(one, yaml.SequenceNode):
            left += one.value


def typed(fields: Mapping[str, Any], kind: type[Declared], where: Path) -> Declared:
    """A kind's own fields as its dataclass; types as in ``config/schema.py``, ``Fields`` and ``Entries``.

    Args:
        fields: as ``Kind.parse`` gets them.
        kind: a dataclass whose fields all have defaults.
        where: the file.

    Raises:
        ConfigError: a field is unknown or ill-typed; names file, line and the nearest name.
    """
    node = getattr(fields, "node", None)
    if node is None:  # from a program
        node = yaml.compose(json.dumps(fields), Loader=yaml.SafeLoader)
    place = Place("", str(where))
    names = [*field_types(kind), *COMMON]
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value not in names:
            raise ConfigError(
                f"{place.child(key.value).at(key)} is not a field; the nearest one is "
                f"{nearest(key.value, names)} (known here: {', '.join(names)})."
            )
    return typing.cast(Declared, Converter(kind, {}).convert(node, kind, place))


def require(fields: Any, names: Sequence[str], where: Path) -> None:
    """Refuse a typed configuration of which one of ``names`` is missing or empty.

    Raises:
        ConfigError: naming file and field.
    """
    for name in names:
        if getattr(fields, name) in (None, "", [], {}):
            raise ConfigError(f"{where}: {name} is missing; give it.")
