"""What must hold of a training sweep's runs before the first one starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config.convert import nearest
from ...config.load import load_config
from ...config.schema import RunConfig
from ...config.validate import validate
from ...errors import ConfigError, UserError
from .base import Json
from .training_run import overrides

STAGES = ("pretrain", "sft")
# What a validation depends on beside the model: the same in all arms, or their figures are of other things.
# It is of stream 0, without random lengths and complements, whatever training has (data/build.py).
_MEASURE = (
    "data.valid data.sequence_length data.bos_per_sample data.document_masks tokenizer.path "
    "training.eval_samples diffusion.objective diffusion.t_min diffusion.low_discrepancy"
).split()
_SFT_LAYOUT = ("width",)


def check_runs(stages: Sequence[Json], seed: int, where: str) -> RunConfig:
    """Read the configuration of every run of an arm as the stage will; the last one's.

    Raises:
        UserError: a file is not there, or a stage would refuse it.
    """
    for number, one in enumerate(stages):
        if one["stage"] not in STAGES:
            raise ConfigError(
                f"{where}: stage {one['stage']!r} is unknown; the nearest one is "
                f"{nearest(one['stage'], STAGES)}."
            )
        start = Path("earlier") if number else None
        if number and "checkpoint.init_from" in one["set"]:
            raise ConfigError(f"{where}: a later stage starts from the one before; leave it out.")
        try:
            pairs = overrides(one, seed, Path("run"), start)
            config: RunConfig = load_config(one["config"], pairs)
            validate(config, one["stage"])
        except UserError as error:
            raise type(error)(f"{where}: {error}") from None
    if not config.training.eval_interval:
        raise ConfigError(
            f"{where}: training.eval_interval is 0, so that nothing would be measured; set it."
        )
    return config


def check_alike(runs: Sequence[tuple[str, str, RunConfig]], where: Path) -> None:
    """Refuse arms whose held-out figures are not of the same rows under the same masks.

    Args:
        runs: of each arm its label, its last run's stage and configuration.
        where: the sweep's file.

    Raises:
        ConfigError: names the field.
    """
    first, wanted = runs[0][0], _measure(*runs[0][1:])
    for label, stage, config in runs:
        found = _measure(stage, config)
        for name, value in wanted.items():
            if found[name] != value:
                raise ConfigError(
                    f"{where}: {name} is {found[name]} in arm {label!r} and {value} in {first!r}, so "
                    "that their held-out figures are not of the same thing; make it equal."
                )


def _measure(stage: str, config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"stage": stage}
    for path in _MEASURE:
        section, name = path.split(".")
        value = getattr(getattr(config, section), name)
        found[path] = [dataclasses.asdict(one) for one in value] if name == "valid" else value
    for name, value in dataclasses.asdict(config.sft).items():
        if name not in _SFT_LAYOUT:
            found[f"sft.{name}"] = value
    sft = config.sft
    is_cut = sft.truncation != "off" or sft.pad == "longest"  # samples are cut or filled in groups
    if stage == "sft" and sft.task == "answer" and is_cut and not sft.truncation_group_size:
        found["training.global_batch_size"] = config.training.global_batch_size
    return found
