"""Kind ``order``: in which order one model opens its tokens when the same problems are asked in several ways.

A cell is one set of prompts under one algorithm and temperature, generated with its history as ``sample
--history`` does and measured as ``megatron-dream order`` does (evaluation/order/), beside the nulls of
random order and of left to right. Sets of prompts are compared prompt by prompt: line n of each file is
the same problem.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ...errors import ConfigError, DataError, ModelFolderError
from .base import Cell, Json, Kind, Row
from .fields import Fields, require, typed
from .order_text import paragraph

if TYPE_CHECKING:
    from ..sampler import Sampler


@dataclass
class OrderFields:
    """The YAML; docs/sweeps.md says what each field means."""

    model: str = ""
    prompts: Fields = field(default_factory=Fields)
    settings: Fields = field(default_factory=Fields)
    algorithms: list[str] = field(default_factory=lambda: ["entropy"])
    temperatures: list[float] = field(default_factory=lambda: [0.0])
    limit: int | None = None
    samples: int = 1
    batch_size: int = 8
    seed: int = 0
    workers: int | None = None
    isolation: Literal["namespaces", "bubblewrap", "process"] | None = None


class OrderSweep(Kind):
    """See the module."""

    name: ClassVar[str] = "order"

    def __init__(self, given: OrderFields, where: Path) -> None:
        self.given, self.where = given, where
        self._sampler: Sampler | None = None

    @classmethod
    def parse(cls, fields: Json, where: Path) -> Self:
        """See the base class."""
        given = typed(fields, OrderFields, where)
        require(given, ("model", "prompts", "algorithms", "temperatures"), where)
        for name in ("limit", "samples", "batch_size", "workers"):
            value = getattr(given, name)
            if value is not None and value < 1:
                raise ConfigError(f"{where}: {name} is {value}; give 1 or more.")
        for label, path in given.prompts.items():
            if not isinstance(path, str) or not path:
                raise ConfigError(f"{_at(given.prompts, label, where)} is {path!r}; give a file.")
        return cls(given, where)

    def cells(self) -> list[Cell]:
        """See the base class."""
        from .store import cell_key

        given, cells = self.given, []
        for alg, temperature in itertools.product(given.algorithms, given.temperatures):
            settings = {**given.settings, "alg": alg, "temperature": temperature}
            self._check(settings)
            # where nothing is drawn a second sample is the first again
            is_drawn = temperature > 0 or alg == "origin" or bool(settings.get("alg_temp"))
            for label, path in given.prompts.items():
                columns: Row = {"rendering": label, "alg": alg, "temperature": temperature}
                columns["setting"] = f"{alg} at {temperature:g}"
                fields = {
                    "model": given.model,
                    "prompts": path,
                    "settings": settings,
                    "limit": given.limit,
                    "samples": given.samples if is_drawn else 1,
                    "batch_size": given.batch_size,
                    "seed": given.seed,
                }
                cells.append(Cell(cell_key(self.name, columns, fields), columns, fields))
        return cells

    def _check(self, settings: Json) -> None:
        """Refuse what the sampler would, and what forces a part of the order.

        Raises:
            ConfigError: naming the file and what is wrong.
        """
        from ..order.record import OrderRecord
        from ..sample_command import check_options
        from ..sampling_flags import SAMPLING_FLAGS

        for name in self.given.settings:
            elsewhere = ("alg", "temperature", "seed", "num_return_sequences")
            if name not in SAMPLING_FLAGS or name in elsewhere:
                raise ConfigError(
                    f"{_at(self.given.settings, name, self.where)} is no field of the sampler that stands "
                    "here; algorithms, temperatures, samples and seed have fields of their own."
                )
        if "max_new_tokens" not in settings:
            raise ConfigError(f"{self.where}: settings.max_new_tokens is missing; give it.")
        try:
            check_options(settings)
        except ConfigError as error:
            raise ConfigError(f"{self.where}: settings: {error}") from None
        if forced := OrderRecord("", [], [], 0, settings=settings).forced_by():
            raise ConfigError(
                f"{self.where}: settings: {forced} forces a part of the order; leave it out."
            )

    def ready(self) -> None:
        """See the base class."""
        from .order_rows import read_questions

        if not Path(self.given.model).is_dir():
            raise ModelFolderError(
                f"{self.where}: model: {self.given.model} does not exist; name a model's folder."
            )
        counts = {
            label: len(read_questions(Path(path), self.given.limit))
            for label, path in self.given.prompts.items()
        }
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{label} {count}" for label, count in counts.items())
            raise DataError(
                f"{self.where}: prompts: the files have different numbers of lines ({told}), and line n of "
                "each is to be the same problem; mend them."
            )

    def measure(self, cell: Cell, folder: Path) -> list[Row]:
        """Generate with history, judge where there are tests, and measure the order."""
        from ..harness.verdicts import JudgeOptions
        from ..order.record import read_records
        from .order_rows import correctness, generate_history, read_questions, rows_of

        fields = cell.fields
        questions = read_questions(Path(fields["prompts"]), fields["limit"])
        history, texts = folder / "order.jsonl", folder / "texts.json"
        if not history.is_file():
            generate_history(self._loaded(), questions, fields, history, texts)
        answers: list[str] = json.loads(texts.read_text(encoding="utf-8"))
        options = JudgeOptions(self.given.workers, self.given.isolation)
        marks = correctness(questions, answers, fields["samples"], options)
        return rows_of(read_records(history), marks, fields["samples"], fields["seed"])

    def _loaded(self) -> Sampler:
        from ..sampler import load_model

        if self._sampler is None:
            self._sampler = load_model(self.given.model)
        return self._sampler

    def summary(self, rows: list[Row]) -> list[Row]:
        """The rows with paired differences of each set of prompts to the first one, prompt by prompt."""
        from .statistics import estimate_columns, paired_difference

        first = next(iter(self.given.prompts))
        firsts = {_setting(row): _of_prompts(row) for row in rows if row["rendering"] == first}
        found = []
        for row in rows:
            told: Row = {**row}
            others = firsts.get(_setting(row), {}) if row["rendering"] != first else {}
            for name, values in _of_prompts(row).items():
                shared = values.keys() & others.get(name, {}).keys()
                difference = paired_difference(values, others[name]) if shared else None
                told |= estimate_columns(f"{name}_minus_{first}", difference)
            found.append(told)
        return found

    def paragraph(self, rows: list[Row]) -> str:
        """See the base class."""
        return paragraph(rows, list(self.given.prompts))


def _setting(row: Row) -> tuple[Any, ...]:
    return row["alg"], row["temperature"], row["order"]


def _of_prompts(row: Row) -> dict[str, dict[str, float]]:
    """By measure, a value a prompt."""
    found: dict[str, dict[str, float]] = json.loads(str(row.get("_prompts") or "{}"))
    return found


def _at(fields: Fields, name: str, where: Path) -> str:
    return fields.at.get(name, f"{where}: {name}")
