"""Read a run's configuration: a YAML file, then dotted overrides, through one typed converter.

``cli.py`` calls ``load_config``; the result goes to ``validate.py`` and ``layout.py`` before
anything starts. Nothing here knows what a field means; ``convert.py`` knows types only.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from megatron_dream.config.convert import (
    Converter,
    Place,
    field_types,
    has_own_form,
    to_plain,
    unknown_field,
)
from megatron_dream.config.presets import resolve_model
from megatron_dream.config.schema import ModelConfig, RunConfig
from megatron_dream.errors import ConfigError, DataError
from megatron_dream.files import atomic_write

Config = TypeVar("Config")


def load_config(
    path: Path | str | None,
    overrides: Sequence[tuple[str, str]] = (),
    base: type[Config] = RunConfig,  # type: ignore[assignment]
) -> Config:
    """Read ``path``, apply ``overrides`` in order, fill the model from its preset.

    Args:
        path: YAML file; None starts from the defaults.
        overrides: pairs of dotted field path and text, as typed on the command line.
        base: the configuration's dataclass.

    Raises:
        ConfigError: an unknown, duplicate or ill-typed field; names file and line, or the flag.
        DataError: the file cannot be read.
    """
    given: dict[str, str] = {}
    converter = Converter(base, given)
    config = base()
    if path is not None:
        node = compose_yaml(read_yaml(Path(path)), str(path))
        if node is not None:
            config = converter.convert(node, base, Place("", str(path)))
    for name, text in overrides:
        _override(config, converter, name, text)
    model = getattr(config, "model", None)
    if isinstance(model, ModelConfig) and model.preset is not None:
        config.model = _fill_model(model, given)  # type: ignore[attr-defined]
    return config


def from_fields(fields: Mapping[str, Any]) -> RunConfig:
    """A run's configuration from plain values by dotted path, through the same converter.

    Raises:
        ConfigError: a field is unknown or ill-typed.
    """
    texts = [(name, v if isinstance(v, str) else json.dumps(v)) for name, v in fields.items()]
    return load_config(None, texts)


def to_yaml(config: Any) -> str:
    """The whole configuration as YAML that ``load_config`` reads back to an equal one."""
    # A value a line, as it is: slurm/lib_train.sh reads fields off it.
    return yaml.safe_dump(
        to_plain(config), sort_keys=False, default_flow_style=False, width=1 << 20
    )


def save_resolved(config: Any, path: Path | str) -> None:
    """Write ``to_yaml(config)`` atomically. No field holds a secret, so nothing is left out."""
    with atomic_write(path) as stream:
        stream.write(to_yaml(config))


def _fill_model(model: ModelConfig, given: dict[str, str]) -> ModelConfig:
    explicit = {name.split(".")[1] for name in given if name.startswith("model.")}
    try:
        return resolve_model(model, explicit)
    except ConfigError as error:
        where = given.get("model.preset", "model.preset")
        raise ConfigError(f"{where}: {str(error).removeprefix('model.preset: ')}") from None


def read_yaml(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such configuration file; check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path.") from None


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """Nodes of one YAML document; None for an empty one.

    Raises:
        ConfigError: it is not valid YAML; ``where``, a file or a flag, begins the sentence.
    """
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark and not where.startswith("--") else ""
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{where}{line}: not valid YAML ({problem}); correct the text.") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{where}: character {error.position} is not allowed in YAML; remove it."
        ) from None
    except RecursionError:
        raise ConfigError(f"{where}: brackets are nested too deep; a field needs three.") from None


def _override(config: Any, converter: Converter, name: str, text: str) -> None:
    """Set the field at dotted path ``name`` of ``config`` from ``text``."""
    target, kind, done = config, type(config), ""
    *parents, last = name.split(".")
    for part in parents:
        kind = _step(target, kind, part, name, done, converter)
        if isinstance(target, list):
            target = target[int(part)]
        else:
            target = getattr(target, part)
        done += f"{part}."
    kind = _step(target, kind, last, name, done, converter)
    value = converter.convert(_text_node(text, kind, name), kind, Place(name))
    if isinstance(target, list):
        target[int(last)] = value
    else:
        setattr(target, last, value)
    converter.given[name] = f"--{name}"


def _step(target: Any, kind: Any, part: str, name: str, done: str, converter: Converter) -> Any:
    """Type of ``part`` inside ``target``, a section or a list."""
    if isinstance(target, list):
        if not part.isdecimal() or int(part) >= len(target):
            raise ConfigError(
                f"--{name}: {done.rstrip('.')} has {len(target)} entries, counted from 0, so "
                f"{part!r} is none of them; give an existing number or the whole list."
            )
        return typing.get_args(kind)[0]
    if not dataclasses.is_dataclass(target) or has_own_form(target):
        raise ConfigError(
            f"--{name}: {done.rstrip('.')} is a value and has no fields; set it whole."
        )
    kinds = field_types(typing.cast(type, type(target)))
    if part not in kinds:
        raise unknown_field(f"--{name}", part, type(target), converter.root, done)
    return kinds[part]


def _text_node(text: str, kind: Any, name: str) -> yaml.Node:
    """An override's text as a node; where text is expected it is taken as typed, unquoted."""
    options = [kind, *typing.get_args(kind)]
    is_null = type(None) in options and text in ("null", "~")
    takes_text = typing.get_origin(kind) is not list
    takes_text &= str in options or any(typing.get_origin(o) is typing.Literal for o in options)
    if takes_text and not is_null:
        return yaml.ScalarNode("tag:yaml.org,2002:str", text)
    node = compose_yaml(text, f"--{name}")
    if node is None:
        raise ConfigError(f"--{name}: the value is empty; give one, or null where that is allowed.")
    return node
