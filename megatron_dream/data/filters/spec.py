"""A filter as a recipe writes it: ``name: {options}``, checked when it is read, built in each worker."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ...config.convert import Converter, Place, nearest
from ...errors import ConfigError, DataError
from ...files import sha256_file
from .base import Options
from .chain import FilterChain
from .registry import FILTERS


@dataclass(frozen=True)
class FilterSpec:
    """One entry of a list of filters.

    Attributes:
        name: of the filter.
        options: an instance of its options.
        where: file, line and field where it was written, to begin an error with.
    """

    name: str
    options: Options
    where: str = dataclasses.field(default="", compare=False)

    description: ClassVar[str] = "a filter, written as name: {option: value}"

    @classmethod
    def from_node(cls, node: yaml.Node, place: Place, converter: Converter) -> FilterSpec:
        """Read ``name: {options}``, or only ``name``; called by config/convert.py.

        Raises:
            ConfigError: unknown filter or option, with the nearest name; values that cannot be.
        """
        name, inner = _name_and_options(node, place)
        if name not in FILTERS:
            raise ConfigError(
                f"{place.child(name).at(node)} is not a filter; the nearest one is {nearest(name, FILTERS)} "
                f"(known: {', '.join(FILTERS)})."
            )
        kind = FILTERS[name].options
        inside = place.child(name)
        is_bare = inner is None or inner.tag == "tag:yaml.org,2002:null"
        # A converter of its own: the nearest name of an option is this filter's.
        options = (
            kind() if is_bare else Converter(kind, converter.given).convert(inner, kind, inside)
        )
        if problem := options.problem():
            raise ConfigError(f"{inside.at(node)} {problem}.")
        return cls(name, options, inside.at(node))

    @classmethod
    def of(cls, value: Any, path: str = "filters", where: str = "") -> FilterSpec:
        """Read the same from plain values, such as ``{"length": {"min_characters": 3}}``."""
        if isinstance(value, FilterSpec):
            return value
        try:
            node = yaml.compose(yaml.safe_dump(value), Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            raise ConfigError(
                f"{_Named(path, where).at(None)} must be {cls.description}, found {value!r}."
            ) from None
        return cls.from_node(node, _Named(path, where), Converter(cls, {}))

    def to_plain(self) -> dict[str, Any]:
        """As a recipe writes it, every option given."""
        return {self.name: dataclasses.asdict(self.options)}

    def identity(self) -> dict[str, Any]:
        """What decides which documents it drops: options, content of files, for a parser the Python.

        Raises:
            DataError: a file that it needs is not there.
        """
        identity = self.to_plain()
        if files := self.options.input_files():
            identity["files"] = [_fingerprint(Path(path), self.where) for path in files]
        if self.name == "parseable":
            identity["python"] = ".".join(platform.python_version_tuple()[:2])
        return identity


def build_filters(
    specs: Iterable[FilterSpec | Mapping[str, Any] | str], where: str = ""
) -> FilterChain:
    """A chain of the filters that a list names, in its order.

    Args:
        specs: as read from a recipe, or plain values of the same form.
        where: what errors about plain values begin with, such as their file.

    Raises:
        ConfigError: an unknown filter or option; names the nearest.
        DataError: a file that a filter needs cannot be read.
        MissingDependencyError: a package that a filter needs is absent.
    """
    read = [FilterSpec.of(spec, f"filters.{number}", where) for number, spec in enumerate(specs)]
    return FilterChain([FILTERS[spec.name].build(spec.options) for spec in read])


@dataclass(frozen=True)
class _Named(Place):
    """A place in plain values: they have no line."""

    def child(self, name: str | int) -> Place:
        return _Named(f"{self.path}.{name}", self.file)

    def at(self, node: yaml.Node | None) -> str:
        return f"{self.file}: {self.path}" if self.file else self.path


def _name_and_options(node: yaml.Node, place: Place) -> tuple[str, yaml.Node | None]:
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        return str(node.value), None
    is_pair = isinstance(node, yaml.MappingNode) and len(node.value) == 1
    if is_pair and isinstance(node.value[0][0], yaml.ScalarNode):
        return str(node.value[0][0].value), node.value[0][1]
    many = isinstance(node, yaml.MappingNode) and len(node.value) > 1
    hint = "; begin each filter with a dash of its own" if many else ""
    raise ConfigError(f"{place.at(node)} must be {FilterSpec.description}{hint}.")


def _fingerprint(path: Path, where: str) -> list[Any]:
    """Names, sizes and checksums of a file, or of a folder's files in order."""
    files: Sequence[Path] = (
        [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    )
    if not files:
        raise DataError(f"{where}: {path} is not there or empty; check the path.")
    return [[file.name, file.stat().st_size, sha256_file(file)] for file in files]
