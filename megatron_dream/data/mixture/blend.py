"""From a plan to the blend of a pretraining run: ``data.train``, as YAML that ``pretrain --config`` reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from ...config.load import to_yaml
from ...config.schema import RunConfig, SourceConfig
from ...errors import DataError
from ...files import atomic_write
from .plan import MixturePlan, SourcePlan

_MARK = "# Written by megatron-dream plan-data"
_DIGITS = 12  # of a weight; the hash of a run's order of samples looks at no more


def blend_of(plan: MixturePlan, folder: Path | str = "") -> list[SourceConfig]:
    """One entry for each pair of token files, a source's share divided by their tokens.

    Args:
        plan: its sources.
        folder: where a source that is not preprocessed yet will lie.
    """
    return [entry for source in plan.sources for entry in _entries(source, Path(folder))]


def _entries(source: SourcePlan, folder: Path) -> list[SourceConfig]:
    found, name = source.entry.found, source.entry.name
    if not found.is_ready:
        return [SourceConfig(prefix=str(folder / name), weight=_rounded(source.share), name=name)]
    single = len(found.files) == 1
    return [
        SourceConfig(
            prefix=str(one.prefix),
            weight=_rounded(source.share * one.num_tokens / found.tokens),
            name=name if single else one.prefix.name,
        )
        for one in found.files
    ]


def _rounded(weight: float) -> float:
    return float(f"{weight:.{_DIGITS}g}")


def write_blend(
    plan: MixturePlan,
    path: Path,
    *,
    tokenizer: str,
    folder: Path | str,
    base: RunConfig | None = None,
) -> None:
    """Write a configuration with the blend, or the rest of ``base`` with this blend in it.

    Args:
        plan: what to train on.
        path: of the YAML file.
        tokenizer: path of the tokenizer, where ``base`` names none.
        folder: of the token files.
        base: a run's configuration, whose data.train, rows, batch and steps are replaced.

    Raises:
        DataError: another file lies there.
    """
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
        raise DataError(f"{path} exists and is not of plan-data; give --config-out another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        _partial(plan, tokenizer, folder) if base is None else _full(plan, tokenizer, folder, base)
    )
    with atomic_write(path) as stream:
        stream.write("\n".join(_header(plan)) + "\n" + text)


def _header(plan: MixturePlan) -> list[str]:
    target = plan.target
    lines = [
        f"{_MARK}: {target.token_budget:,} tokens, {target.samples:,} samples.",
        f"# Training data: {plan.contamination}.",
    ]
    waiting = [source.entry.name for source in plan.sources if not source.entry.found.is_ready]
    if waiting:
        lines.append(f"# Not preprocessed yet, plan again then: {', '.join(waiting)}.")
    return lines


def _partial(plan: MixturePlan, tokenizer: str, folder: Path | str) -> str:
    target = plan.target
    entries = [dataclasses.asdict(entry) for entry in blend_of(plan, folder)]
    values: dict[str, Any] = {
        "tokenizer": {"path": tokenizer},
        "data": {"train": entries, "sequence_length": target.sequence_length},
    }
    if target.train_steps is not None:
        values["training"] = {
            "train_steps": target.train_steps,
            "global_batch_size": target.global_batch_size,
        }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _full(plan: MixturePlan, tokenizer: str, folder: Path | str, base: RunConfig) -> str:
    target = plan.target
    base.tokenizer.path = base.tokenizer.path or tokenizer
    base.data.train = blend_of(plan, folder)
    base.data.sequence_length = target.sequence_length
    if target.train_steps is not None and target.global_batch_size is not None:
        base.training.train_steps = target.train_steps
        base.training.global_batch_size = target.global_batch_size
    return to_yaml(base)
