"""Kind ``training``: models are trained under several choices, with the same seeds, and compared.

A cell is one arm with one value of every axis and one seed: its runs are the project's own stages, started
as a person would start them (training_run.py). The seed is that of data, noise and initial weights in every
arm, so that the arms of a seed see the same rows under the same masks: they are compared pair by pair.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ...config.convert import nearest
from ...errors import ConfigError
from .base import Cell, Json, Kind, Row
from .fields import Entries, Fields, require, typed
from .store import cell_key
from .training_text import paragraph

if TYPE_CHECKING:
    from ...config.schema import RunConfig
    from .sampling import SamplingSweep

_OWN = ("data.seed", "training.seed", "checkpoint.run_folder")  # given by the sweep
_COLUMNS = ("arm", "seed", "step", "flops_total", "cross_entropy", "bound", "accuracy", "pass@1")


@dataclass
class Stage:
    """One run of an arm.

    Attributes:
        stage: ``pretrain`` or ``sft``.
        config: its YAML.
        set: fields in place of the YAML's, by dotted path.
    """

    stage: str = ""
    config: str = ""
    set: Fields = dataclasses.field(default_factory=Fields)


@dataclass
class Arm:
    """What is compared.

    Attributes:
        label: its name.
        set: fields of its last run.
        stages: its runs, each from where the one before ended; empty: the sweep's one.
        compare_to: the arm that it is compared to; empty: the sweep's.
    """

    label: str = ""
    set: Fields = dataclasses.field(default_factory=Fields)
    stages: list[Stage] = dataclasses.field(default_factory=list)
    compare_to: str = ""


@dataclass
class Axis:
    """Values of a field of the last run, crossed with all arms and other axes.

    Attributes:
        field: dotted path.
        values: of it.
        label: the column's name; None: the path's last part.
    """

    field: str = ""
    values: Entries = dataclasses.field(default_factory=Entries)
    label: str | None = None

    @property
    def column(self) -> str:
        """Its name in the rows."""
        return self.label or self.field.rsplit(".", 1)[-1]


@dataclass
class Answers:
    """A benchmark that every trained model answers; as of kind ``sampling``."""

    benchmark: str = ""
    style: Literal["base", "instruct"] | None = None
    data: str = ""
    limit: int | None = None
    samples: int = 1
    batch_size: int = 64
    seed: int = 0
    settings: Fields = dataclasses.field(default_factory=Fields)


@dataclass
class TrainingFields:
    """The YAML; docs/sweeps.md says what each field means."""

    stage: str = ""
    config: str = ""
    set: Fields = dataclasses.field(default_factory=Fields)
    arms: list[Arm] = dataclasses.field(default_factory=list)
    axes: list[Axis] = dataclasses.field(default_factory=list)
    seeds: list[int] = dataclasses.field(default_factory=list)
    launch: list[str] = dataclasses.field(default_factory=list)
    measure: Literal["validation"] = "validation"
    answers: Answers | None = None
    compare_to: str = ""
    keep: bool = False


class TrainingSweep(Kind):
    """See the module."""

    name: ClassVar[str] = "training"

    def __init__(self, given: TrainingFields, where: Path) -> None:
        self.given, self.where = given, where

    @classmethod
    def parse(cls, fields: Json, where: Path) -> Self:
        """See the base class."""
        given = typed(fields, TrainingFields, where)
        require(given, ("arms", "seeds", "compare_to"), where)
        _check(given, where)
        return cls(given, where)

    def cells(self) -> list[Cell]:
        """See the base class."""
        from .training_check import check_alike, check_runs

        checked, found = [], []
        for arm in self.given.arms:
            for values in itertools.product(*(axis.values for axis in self.given.axes)):
                stages = self._stages(arm, values)
                columns: Row = {"arm": arm.label, **dict(zip(self._axes(), values, strict=True))}
                last = check_runs(stages, self.given.seeds[0], f"{self.where}: arm {arm.label!r}")
                if self.given.answers is not None:
                    _check_is_sampled(last, f"{self.where}: arm {arm.label!r}")
                checked.append((arm.label, stages[-1]["stage"], last))
                found += [self._cell(columns, stages, seed) for seed in self.given.seeds]
        check_alike(checked, self.where)
        if self.given.answers is not None:
            self._answering(Path(".")).cells()
        return found

    def _axes(self) -> list[str]:
        return [axis.column for axis in self.given.axes]

    def _stages(self, arm: Arm, values: Sequence[Any]) -> list[Json]:
        """Runs of an arm with the fields that are set in each, as JSON."""
        own = arm.stages or [Stage(self.given.stage, self.given.config)]
        found = []
        for number, stage in enumerate(own):
            chosen = {**self.given.set, **stage.set}
            if number == len(own) - 1:
                chosen |= arm.set
                chosen |= {a.field: v for a, v in zip(self.given.axes, values, strict=True)}
            found.append({"stage": stage.stage, "config": stage.config, "set": plain(chosen)})
        return found

    def _cell(self, columns: Row, stages: list[Json], seed: int) -> Cell:
        runs = [{**one, "config_sha256": _digest(one["config"])} for one in stages]
        fields: Json = {"stages": runs, "seed": seed, "launch": list(self.given.launch)}
        if self.given.answers is not None:
            fields["answers"] = plain(vars(self.given.answers))
        columns = {**columns, "seed": seed}
        return Cell(cell_key(self.name, columns, fields), columns, fields)

    def ready(self) -> None:
        """The benchmark is there.

        Raises:
            UserError: it is not.
        """
        if self.given.answers is not None:
            self._answering(Path(".")).ready()

    def measure(self, cell: Cell, folder: Path) -> list[Row]:
        """Train and validate, answer where that is asked for, and remove the checkpoints."""
        from .training_run import run_stages

        rows, last = run_stages(cell.fields, folder)
        if self.given.answers is not None:
            rows[-1] |= self._answers(folder, last)
        if not self.given.keep:
            for checkpoints in folder.glob("*/checkpoints"):
                shutil.rmtree(checkpoints)
        return rows

    def _answers(self, folder: Path, model: Path) -> Row:
        """pass@1 of a trained model; what is measured needs no model any more."""
        from ...files import write_json

        done = folder / "answers.json"
        if not done.exists():
            sweep = self._answering(model)
            (folder / "answers").mkdir(exist_ok=True)
            row = sweep.measure(sweep.cells()[0], folder / "answers")[0]
            write_json(done, {"pass@1": row["pass@1"], "tokens": row["tokens"]})
        found: Row = json.loads(done.read_text(encoding="utf-8"))
        return found

    def _answering(self, model: Path) -> SamplingSweep:
        """The sweep of one cell that asks ``model``."""
        from .sampling import SamplingSweep

        assert self.given.answers is not None
        fields = plain(vars(self.given.answers)) | {"models": {"model": str(model)}}
        return SamplingSweep.parse({n: v for n, v in fields.items() if v is not None}, self.where)

    def summary(self, rows: list[Row]) -> list[Row]:
        """Means over seeds with intervals, and paired differences between arms."""
        from .training_summary import summary

        baselines = {arm.label: arm.compare_to or self.given.compare_to for arm in self.given.arms}
        return summary(rows, self._axes(), baselines)

    def paragraph(self, rows: list[Row]) -> str:
        """See the base class."""
        return paragraph(rows, self._axes(), self.given.compare_to)


def plain(value: Any) -> Any:
    """Mappings, lists and scalars that JSON knows."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def _check_is_sampled(last: RunConfig, where: str) -> None:
    """Refuse to ask a model that the sampler does not know."""
    told = "" if last.diffusion.shift else "diffusion.shift false"
    told = "diffusion.objective ar" if last.diffusion.objective == "ar" else told
    if told:
        raise ConfigError(f"{where} has {told}, which is not sampled; leave answers out.")


def _digest(config: str) -> str:
    """Of a YAML, which is looked behind: where it is changed, the cell is another."""
    return hashlib.sha256(Path(config).read_bytes()).hexdigest()[:16]


def _check(given: TrainingFields, where: Path) -> None:
    """Refuse what cannot be meant before a run's YAML is read."""
    labels = [arm.label for arm in given.arms]
    for name, values in (("arms", labels), ("seeds", given.seeds)):
        if len(set(values)) < len(values) or "" in values:
            raise ConfigError(f"{where}: {name} {values} need names of their own; mend them.")
    for name in (given.compare_to, *(arm.compare_to for arm in given.arms if arm.compare_to)):
        if name not in labels:
            raise ConfigError(
                f"{where}: compare_to is {name!r}, which is no arm; the nearest one is "
                f"{nearest(name, labels)}."
            )
    if min(given.seeds) < 0:
        raise ConfigError(f"{where}: seeds {given.seeds}: give 0 or more.")
    columns = [*_COLUMNS, *(axis.column for axis in given.axes)]
    if len(set(columns)) < len(columns):
        raise ConfigError(
            f"{where}: axes {columns[len(_COLUMNS) :]}: give each a label of its own."
        )
    for axis in given.axes:
        if not axis.field or not axis.values:
            raise ConfigError(f"{where}: axes: one has no field or no values; give both.")
        for value in axis.values:
            if not isinstance(value, bool | int | float | str):
                raise ConfigError(f"{where}: axis {axis.field}: {value!r} is no plain value.")
    for place, name in _set_fields(given):
        if name in _OWN:
            raise ConfigError(f"{where}: {place} has {name}, which the sweep gives; leave it out.")
    if not all(arm.stages for arm in given.arms):
        require(given, ("stage", "config"), where)


def _set_fields(given: TrainingFields) -> Iterator[tuple[str, str]]:
    """Every field that is set, with where."""
    yield from (("set", name) for name in given.set)
    yield from (("axes", axis.field) for axis in given.axes)
    for arm in given.arms:
        for fields in (arm.set, *(stage.set for stage in arm.stages)):
            yield from ((f"arm {arm.label!r}", name) for name in fields)
