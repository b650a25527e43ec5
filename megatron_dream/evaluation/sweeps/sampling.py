"""Kind ``sampling``: models answer a benchmark under many settings of the sampler.

Generation, verdicts and scores are the harness's (evaluation/harness/), so that a cell is what
``megatron-dream eval`` would find with the same settings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ...config.convert import nearest
from ...errors import ConfigError, DataError, ModelFolderError, UserError
from .base import Cell, Json, Kind, Row
from .fields import Entries, Fields, require, typed
from .sampling_text import paragraph

if TYPE_CHECKING:
    from ..harness.models import Model


@dataclass
class Axis:
    """Values that are crossed with those of the other axes.

    Attributes:
        name: a field of the sampler, or a name where the values are mappings with a label.
        values: of it.
    """

    name: str = ""
    values: Entries = field(default_factory=Entries)


@dataclass
class Arm:
    """A cell outside of the grid.

    Attributes:
        label: its name.
        model: one of ``models``; None: the first.
        settings: over the common ones.
        samples: of each task; None: as everywhere.
        best_of: numbers of answers of which one is chosen.
    """

    label: str = ""
    model: str | None = None
    settings: Fields = field(default_factory=Fields)
    samples: int | None = None
    best_of: list[int] = field(default_factory=list)


@dataclass
class SamplingFields:
    """The YAML; docs/sweeps.md says what each field means."""

    models: Fields = field(default_factory=Fields)
    grid_models: list[str] = field(default_factory=list)
    benchmark: str = ""
    style: Literal["base", "instruct"] | None = None
    data: str = ""
    limit: int | None = None
    samples: int = 1
    k: list[int] = field(default_factory=lambda: [1])
    batch_size: int = 8
    seed: int = 0
    gap: str = "grow"
    weights: Literal["bf16", "fp8"] | None = None
    settings: Fields = field(default_factory=Fields)
    vary: list[Axis] = field(default_factory=list)
    baseline: Fields = field(default_factory=Fields)
    arms: list[Arm] = field(default_factory=list)
    workers: int | None = None
    isolation: Literal["namespaces", "bubblewrap", "process"] | None = None


class SamplingSweep(Kind):
    """See the module."""

    name: ClassVar[str] = "sampling"

    def __init__(self, given: SamplingFields, where: Path) -> None:
        self.given, self.where = given, where
        self._loaded: tuple[str, Model] | None = None

    @classmethod
    def parse(cls, fields: Json, where: Path) -> Self:
        """See the base class."""
        given = typed(fields, SamplingFields, where)
        require(given, ("models", "benchmark", "style", "data", "k"), where)
        _check(given, where)
        return cls(given, where)

    def cells(self) -> list[Cell]:
        """See the base class."""
        from .sampling_cells import sampling_cells

        return sampling_cells(self.given, self.where)

    def ready(self) -> None:
        """Models and problems are there.

        Raises:
            UserError: one is not.
        """
        from ..benchmarks.registry import benchmark

        assert self.given.style is not None
        for name, path in self.given.models.items():
            if not Path(path).is_dir():
                place = self.given.models.at.get(name, f"{self.where}: models.{name}")
                raise ModelFolderError(f"{place}: {path} does not exist; name a model's folder.")
        benchmark(self.given.benchmark, self.given.style).tasks(Path(self.given.data))

    def measure(self, cell: Cell, folder: Path) -> list[Row]:
        """Generate, judge and score one setting."""
        from ...sandbox import Outcome
        from ..benchmarks.registry import benchmark
        from ..harness.records import check_run, read_samples
        from ..harness.verdicts import JudgeOptions, judge_samples, write_lines
        from .sampling_rows import identity, rows_of, settings_of

        fields = cell.fields
        kind = benchmark(fields["benchmark"], fields["style"])
        data = Path(fields["data"])
        tasks = kind.tasks(data)[: fields["limit"]]
        settings = settings_of(fields)
        check_run(folder, identity(fields, kind.file(data)))
        if len(read_samples(folder)) < settings.num_samples * len(tasks):
            self._generate(cell, kind.name, tasks, settings, folder)
        options = JudgeOptions(self.given.workers, self.given.isolation)
        with options.start(kind.cpu_seconds) as judge:
            judged = judge_samples(kind, tasks, read_samples(folder), judge, quiet=True)
        write_lines(folder / "verdicts.jsonl", judged.lines)
        if not judged.lines:
            raise DataError(f"{data}: none of the tasks can be judged here; choose other ones.")
        lost = sum(line["outcome"] == Outcome.INFRASTRUCTURE.value for line in judged.lines)
        if lost:
            raise UserError(
                f"{folder}: {lost} of {len(judged.lines)} samples could not be judged for no fault of "
                "theirs; run the sweep again."
            )
        return rows_of(cell, kind, tasks, judged)

    def _generate(
        self, cell: Cell, name: str, tasks: list[Any], settings: Any, folder: Path
    ) -> None:
        """Make what is missing of a cell's samples."""
        from ..harness.run import generate, plan_batches

        batch_size = cell.fields["batch_size"]
        model = self._model(cell.fields["path"])
        if self._loaded is None:
            # what a model does once (compiling, allocating) is in no cell's seconds
            items = plan_batches(model, name, tasks, settings, batch_size)[0]
            rows, seeds = [item.row for item in items], [item.seed for item in items]
            model.answer(rows, seeds, [item.task for item in items], settings)
            self._loaded = (cell.fields["path"], model)
        generate(model, name, tasks, settings, folder, batch_size, quiet=True)

    def _model(self, path: str) -> Model:
        """A model of which one at a time is kept."""
        from ..harness.models import open_model
        from .sampling_rows import goes_left_to_right

        if self._loaded is not None and self._loaded[0] == path:
            return self._loaded[1]
        self._loaded = None
        weights = None if goes_left_to_right(path) else self.given.weights
        return open_model(Path(path), weights)

    def summary(self, rows: list[Row]) -> list[Row]:
        """The rows with their paired differences to the baseline.

        A baseline that leaves axes open is a setting for each value of these: a row is compared with the
        one that has its own value there; an arm, which has none, with the first.
        """
        from .statistics import estimate_columns, paired_difference

        wanted = self.given.baseline or self.cells()[0].columns
        baselines = [row for row in rows if row.get("best_of") is None and _is_so(row, wanted)]
        open_axes = [axis.name for axis in self.given.vary if axis.name not in wanted]
        found = []
        for row in rows:
            is_arm = row["arm"] != row["model"]
            own = {} if is_arm else {name: row[name] for name in open_axes}
            baseline = next((one for one in baselines if _is_so(one, own)), None)
            if baseline is None:  # not measured yet
                found.append(row)
                continue
            of_baseline = json.loads(str(baseline["_tasks"]))
            told: Row = {**row}
            told["is_baseline"] = "yes" if row is baseline else "no"
            for column, values in json.loads(str(row["_tasks"])).items():
                estimate = paired_difference(values, of_baseline[column])
                told |= estimate_columns(f"{column}_minus_baseline", estimate)
            found.append(told)
        return found

    def paragraph(self, rows: list[Row]) -> str:
        """See the base class."""
        axes = [axis.name for axis in self.given.vary]
        return paragraph(rows, self.given.benchmark, axes, [f"pass@{k}" for k in self.given.k])


def _is_so(row: Row, wanted: Json | Row) -> bool:
    return all(row.get(name) == value for name, value in wanted.items())


def _check(given: SamplingFields, where: Path) -> None:
    """Refuse numbers and names that cannot be meant."""
    from ..benchmarks.registry import BENCHMARKS

    for name in ("limit", "samples", "batch_size", "workers"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ConfigError(f"{where}: {name} is {value}; give 1 or more.")
    if given.seed < 0:
        raise ConfigError(f"{where}: seed is {given.seed}; give 0 or more.")
    if given.gap not in ("grow", "oracle") and not (given.gap.isdigit() and int(given.gap)):
        raise ConfigError(
            f"{where}: gap is {given.gap!r}; give grow, oracle or a number of masks in quotes."
        )
    if given.benchmark not in BENCHMARKS:
        raise ConfigError(
            f"{where}: benchmark {given.benchmark!r} is unknown; the nearest one is "
            f"{nearest(given.benchmark, BENCHMARKS)}."
        )
    for name, path in given.models.items():
        if not isinstance(path, str) or not path:
            raise ConfigError(f"{given.models.at[name]} is {path!r}; give a path.")
    for k in given.k:
        if not 1 <= k <= given.samples:
            raise ConfigError(
                f"{where}: k has {k} with {given.samples} samples; give k from 1 to samples."
            )
    known = list(given.models)
    for name in [*given.grid_models, *(arm.model for arm in given.arms if arm.model)]:
        if name not in known:
            raise ConfigError(
                f"{where}: there is no model {name!r}; the nearest one is {nearest(name, known)}."
            )
