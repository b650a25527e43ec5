"""What a sweep is made of: cells, which are measured one by one, and the kind that knows how.

Where it sits: ``spec.py`` reads a YAML file to a ``Kind``; ``command.py`` measures its cells through
``store.py`` and has ``table.py``, ``plot.py`` and the kind's ``paragraph`` tell what was found.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

Json = dict[str, Any]
# A line of the CSV. An estimate is three columns: NAME, NAME_low and NAME_high (95%).
Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Cell:
    """One setting, or one trained arm with one seed: measured once.

    Attributes:
        key: safe as a folder's name, unique in the sweep, made from what identifies the cell.
        columns: what identifies it (temperature, arm, seed, ...): first columns of its rows.
        fields: what the kind needs to measure it; JSON values.
    """

    key: str
    columns: Row
    fields: Json


class Kind(ABC):
    """A kind of sweep. Importing one takes no time: what is heavy is imported in ``measure``."""

    name: ClassVar[str]  # `kind:` in the YAML

    @classmethod
    @abstractmethod
    def parse(cls, fields: Json, where: Path) -> Self:
        """From the YAML file ``where`` without the fields that all kinds have.

        Raises:
            ConfigError: a field is unknown or ill-typed; names file, field and the nearest name.
        """

    @abstractmethod
    def cells(self) -> list[Cell]:
        """All of them, checked before anything runs.

        Raises:
            UserError: one of them cannot be measured; names the YAML's field.
        """

    def ready(self) -> None:  # noqa: B027  a kind may need nothing
        """Before the first cell is measured: refuse what is missing on disk.

        Raises:
            UserError: a model or a file is not there.
        """

    @abstractmethod
    def measure(self, cell: Cell, folder: Path) -> list[Row]:
        """Run a cell; what was killed goes on inside ``folder``.

        Returns:
            Its rows, without the cell's columns or with the same.
        """

    def summary(self, rows: list[Row]) -> list[Row]:
        """What is plotted and told (means over seeds with intervals, say)."""
        return rows

    @abstractmethod
    def paragraph(self, rows: list[Row]) -> str:
        """What ``summary``'s rows show, in plain words from the figures alone, with intervals.

        Says "no difference shown" where the interval of a paired difference holds 0.
        """
