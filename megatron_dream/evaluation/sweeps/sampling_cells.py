"""The cells of a sampling sweep: axes crossed with models, and arms; each checked as the sampler would."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config.convert import nearest
from ...errors import ConfigError
from ...sampling.blocks import plan_blocks
from ...sampling.sampling_config import SamplingConfig
from ..benchmarks.registry import BENCHMARKS
from ..harness.models import is_autoregressive
from ..sampling_flags import OF_APPENDED_TOKENS, SAMPLING_FLAGS
from .base import Cell, Json, Row
from .fields import Fields
from .store import cell_key

if TYPE_CHECKING:
    from .sampling import Arm, Axis, SamplingFields

# Of models from left to right nothing else is asked (harness/autoregressive.py).
DRAWN = ("max_new_tokens", "temperature", "top_p", "top_k")
_NOT_OF_GAPS = (*OF_APPENDED_TOKENS, "pad_penalty")
_IDS = {"mask_token_id": 0, "pad_token_id": 0, "eos_token_id": 0}
_ELSEWHERE = {"seed": "seed", "num_return_sequences": "samples"}
_SETTABLE = [name for name in SAMPLING_FLAGS if name not in _ELSEWHERE]


@dataclass(frozen=True)
class _Value:
    """A value of an axis: what its column shows, and the fields that it sets."""

    shown: Any
    fields: Json
    at: str


def sampling_cells(given: SamplingFields, where: Path) -> list[Cell]:
    """All cells: the grid, model by model, then the arms.

    Raises:
        ConfigError: the sampler would refuse one; names file, line and field.
    """
    common = _settings(given.settings, "settings", where)
    axes = [_axis(axis, number, where) for number, axis in enumerate(given.vary)]
    _check_axes(given, axes, where)
    cells = []
    for model in _grid_models(given):
        for values in itertools.product(*axes):
            settings = {**common, **{k: v for value in values for k, v in value.fields.items()}}
            own = {name: value.at for value in values for name in value.fields}
            _check_setting(given, model, settings, own, f"{where}: settings")
            columns: Row = {"arm": model, "model": model}
            columns |= {a.name: v.shown for a, v in zip(given.vary, values, strict=True)}
            cells.append(_cell(given, model, columns, settings, given.samples, []))
    labels = [arm.label for arm in given.arms]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"{where}: two arms have one label ({', '.join(labels)}); rename one.")
    cells += [_arm(given, arm, number, common, where) for number, arm in enumerate(given.arms)]
    _check_baseline(given, cells, where)
    return cells


def _grid_models(given: SamplingFields) -> list[str]:
    if given.grid_models:
        return given.grid_models
    of_arms = {arm.model or next(iter(given.models)) for arm in given.arms}
    return [name for name in given.models if name not in of_arms] or list(given.models)


def _settings(settings: Fields, name: str, where: Path) -> Json:
    """Fields of the sampler with the types that its flags have."""
    for field, value in settings.items():
        at = settings.at.get(field, f"{where}: {name}.{field}")
        if field in _ELSEWHERE:
            raise ConfigError(f"{at}: give {_ELSEWHERE[field]} of the sweep, not of the sampler.")
        if field not in _SETTABLE:
            raise ConfigError(
                f"{at} is no field of the sampler; the nearest one is {nearest(field, _SETTABLE)}."
            )
        _check_type(field, value, at)
    return dict(settings)


def _check_type(field: str, value: Any, at: str) -> None:
    flag = SAMPLING_FLAGS[field]
    wanted = {bool: bool, int: int, float: (int, float), str: str}[flag.kind]
    values = value if flag.is_list and isinstance(value, list) else [value]
    for one in values:
        is_bool_for_number = isinstance(one, bool) and flag.kind is not bool
        if not isinstance(one, wanted) or is_bool_for_number:  # type: ignore[arg-type]
            words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
            raise ConfigError(f"{at} is {one!r}; give {words[flag.kind]}.")


def _axis(axis: Axis, number: int, where: Path) -> list[_Value]:
    """The values of an axis."""
    if not axis.name or not axis.values:
        raise ConfigError(f"{where}: vary.{number} needs name and values; give both.")
    values = []
    for place, value in enumerate(axis.values):
        spot = f"{where}: vary.{number}.values.{place}"
        at = axis.values.at[place] if axis.values.at else spot
        values.append(_value(axis.name, value, at, where))
    shown = [value.shown for value in values]
    for place, value in enumerate(values):
        if value.shown in shown[:place]:
            raise ConfigError(f"{value.at}: {value.shown!r} is there twice; keep one.")
    return values


def _value(name: str, value: Any, at: str, where: Path) -> _Value:
    if not isinstance(value, Mapping):
        if name not in _SETTABLE:
            raise ConfigError(
                f"{at}: {name!r} is no field of the sampler, so its values are mappings with a label; "
                f"the nearest field is {nearest(name, _SETTABLE)}."
            )
        _check_type(name, value, at)
        return _Value(value, {name: value}, at)
    if name in _SETTABLE:
        raise ConfigError(
            f"{at}: a mapping with a label under the name of a field, {name}; name the axis otherwise."
        )
    label = value.get("label")
    if not isinstance(label, str | int | float) or isinstance(label, bool) or label == "":
        raise ConfigError(f"{at} has no label; give text or a number.")
    rest = Fields(
        {k: v for k, v in value.items() if k != "label"},
        value.at if isinstance(value, Fields) else {},
    )
    return _Value(label, _settings(rest, at, where), at)


def _check_axes(given: SamplingFields, axes: list[list[_Value]], where: Path) -> None:
    """Refuse axes that would overwrite one another's fields or columns."""
    names = ["arm", "model"]
    setters: dict[str, str] = {}
    for axis, values in zip(given.vary, axes, strict=True):
        if axis.name in names:
            raise ConfigError(
                f"{where}: an axis is named {axis.name!r}, which is taken; rename it."
            )
        names.append(axis.name)
        for field in {name for value in values for name in value.fields}:
            if field in setters:
                raise ConfigError(
                    f"{where}: {field} is set by the axes {setters[field]} and {axis.name}; keep one."
                )
            setters[field] = axis.name


def _check_setting(
    given: SamplingFields, model: str, settings: Json, own: Mapping[str, str], at: str
) -> None:
    """Refuse what the sampler would, or what has no say for the model.

    Args:
        given: the YAML.
        model: its name.
        settings: all that hold.
        own: fields that are not the common ones, each with its place.
        at: the place of what is not found in these.
    """
    path = Path(str(given.models[model]))
    if BENCHMARKS[given.benchmark].is_infilling:
        without = set(_NOT_OF_GAPS if given.gap != "grow" else (*_NOT_OF_GAPS, "steps"))
        _refuse_without_say(own, without, "a gap")
        settings = {name: value for name, value in settings.items() if name not in without}
    elif "max_new_tokens" not in settings:
        raise ConfigError(f"{at}: max_new_tokens is missing; give it in settings or in an axis.")
    if (path / "config.json").is_file() and is_autoregressive(path):
        _refuse_without_say(
            own,
            set(_SETTABLE) - set(DRAWN),
            f"model {model}, which goes from left to right (name the others in grid_models)",
        )
        settings = {name: value for name, value in settings.items() if name in DRAWN}
    try:
        plan_blocks(1, SamplingConfig(**{**_IDS, **settings}).resolved())
    except ValueError as error:
        words = re.findall(r"\w+", str(error))  # the field at fault comes first
        places = {**given.settings.at, **own}
        place = next((places[word] for word in words if word in places), at)
        raise ConfigError(f"{place}: {error}") from None


def _refuse_without_say(own: Mapping[str, str], without: set[str], whom: str) -> None:
    for name in own:
        if name in without:
            raise ConfigError(f"{own[name]}: {name} has no say for {whom}; leave it out.")


def _arm(given: SamplingFields, arm: Arm, number: int, common: Json, where: Path) -> Cell:
    at = f"{where}: arms.{number}"
    model = arm.model or next(iter(given.models))
    samples = given.samples if arm.samples is None else arm.samples
    if not arm.label or arm.label in given.models:
        raise ConfigError(f"{at} needs a label of its own; give one that is no model's name.")
    if samples < max([1, *given.k]):
        raise ConfigError(f"{at}.samples is {samples}, below k; give {max(given.k)} or more.")
    if any(not 1 <= n <= samples for n in arm.best_of):
        raise ConfigError(f"{at}.best_of is {arm.best_of} with {samples} samples; give 1 to these.")
    own = _settings(arm.settings, f"arms.{number}.settings", where)
    settings = {**common, **own}
    places = {name: arm.settings.at.get(name, f"{at}.settings.{name}") for name in own}
    _check_setting(given, model, settings, places, at)
    columns: Row = {"arm": arm.label, "model": model}
    for axis in given.vary:
        has_labels = any(isinstance(value, Mapping) for value in axis.values)
        columns[axis.name] = arm.label if has_labels else own.get(axis.name)
    return _cell(given, model, columns, settings, samples, arm.best_of)


def _cell(
    given: SamplingFields, model: str, columns: Row, settings: Json, samples: int, best_of: list[int]
) -> Cell:  # fmt: skip
    fields: Json = {
        "path": str(given.models[model]),
        "benchmark": given.benchmark,
        "style": given.style,
        "data": given.data,
        "limit": given.limit,
        "samples": samples,
        "k": given.k,
        "best_of": best_of,
        "batch_size": given.batch_size,
        "seed": given.seed,
        "gap": given.gap,
        "weights": given.weights,
        "settings": settings,
    }
    return Cell(cell_key("sampling", columns, fields), columns, fields)


def _check_baseline(given: SamplingFields, cells: list[Cell], where: Path) -> None:
    """Refuse a baseline that is not one of the cells."""
    if not given.baseline:
        return
    for name in given.baseline:
        if name not in cells[0].columns:
            raise ConfigError(
                f"{given.baseline.at.get(name, where)} is no column that identifies a cell; the nearest "
                f"one is {nearest(name, cells[0].columns)}."
            )
    if not any(
        all(cell.columns[name] == value for name, value in given.baseline.items()) for cell in cells
    ):
        at = next(iter(given.baseline.at.values()), f"{where}: baseline")
        raise ConfigError(f"{at}: no cell is so; give values of the axes.")
