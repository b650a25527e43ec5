"""A sweep's YAML file: what all kinds have in common, and the kind with the rest."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import yaml

from ...config.convert import Converter, Place, nearest
from ...config.load import compose_yaml, read_yaml
from ...errors import ConfigError
from .base import Kind
from .fields import COMMON, Entries, Fields, refuse_aliases, require
from .kinds import KINDS, kind_of


class Names(Entries):
    """One column's name or a list of them."""

    description: ClassVar[str] = "a column's name or a list of them"


@dataclass
class Plot:
    """One plot.

    Attributes:
        x: column along the axis.
        y: columns, a row of panels each.
        series: column that makes the lines.
        panels: column that makes panels side by side.
        log_x: logarithmic.
        log_y: likewise.
        dots: points are not joined.
        title: above it; None: the sweep's.
    """

    x: str = ""
    y: Names = field(default_factory=Names)
    series: str | None = None
    panels: str | None = None
    log_x: bool = False
    log_y: bool = False
    dots: bool = False
    title: str | None = None


@dataclass
class _Common:
    title: str = ""
    question: str = ""
    kind: str = ""
    plot: Plot | None = None
    plots: list[Plot] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Sweep:
    """What a file says.

    Attributes:
        path: of the file.
        title: of the report.
        question: what is asked.
        plots: one or more.
        note: what cannot be concluded.
        kind: with its own fields.
        text: the file's.
    """

    path: Path
    title: str
    question: str
    plots: tuple[Plot, ...]
    note: str
    kind: Kind
    text: str

    @property
    def name(self) -> str:
        """The file's without its suffix: of the report's files."""
        return self.path.stem


def read_sweep(path: Path) -> Sweep:
    """Read and check a file.

    Raises:
        ConfigError: a field is unknown, missing, ill-typed or impossible; names file, line and field.
        DataError: the file cannot be read.
    """
    text = read_yaml(path)
    node = compose_yaml(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: no mapping of fields; see docs/sweeps.md for what a sweep has.")
    refuse_aliases(node, str(path))
    common, own = _split(node)
    given = Converter(_Common, {}).convert(common, _Common, Place("", str(path)))
    require(given, ("kind",), path)
    if given.kind not in KINDS:
        raise ConfigError(
            f"{_line(common, 'kind', path)}: kind {given.kind!r} is unknown; the nearest one is "
            f"{nearest(given.kind, KINDS)} (known: {', '.join(KINDS)})."
        )
    kind = kind_of(given.kind).parse(Fields.from_node(own, Place("", str(path))), path)
    require(given, ("title", "question"), path)  # after the kind: what is missing may be misspelt
    plots = _plots(given, path)
    return Sweep(path, given.title, given.question, plots, given.note, kind, text)


def _split(node: yaml.MappingNode) -> tuple[yaml.MappingNode, yaml.MappingNode]:
    """The common fields, and the kind's."""
    parts = []
    for is_common in (True, False):
        pairs = [pair for pair in node.value if (pair[0].value in COMMON) == is_common]
        parts.append(yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark))
    return parts[0], parts[1]


def _line(node: yaml.MappingNode, name: str, path: Path) -> str:
    line = next(key.start_mark.line + 1 for key, _ in node.value if key.value == name)
    return f"{path}:{line}"


def _plots(given: _Common, path: Path) -> tuple[Plot, ...]:
    if (given.plot is None) == (not given.plots):
        raise ConfigError(f"{path}: give one of plot (one) and plots (a list).")
    plots = given.plots or [plot for plot in (given.plot,) if plot is not None]
    for number, plot in enumerate(plots):
        name = f"plots.{number}" if given.plots else "plot"
        if not plot.x or not plot.y:
            raise ConfigError(f"{path}: {name} needs x and y; name columns of the rows.")
        for column in plot.y:
            if not isinstance(column, str):
                raise ConfigError(f"{path}: {name}.y: {column!r} is no column's name; give names.")
    return tuple(plots)


assert {one.name for one in fields(_Common)} == set(COMMON)
