"""What a preparation for the sft stage says of its output: counts by rule, the sidecar, the result.

``P.json`` is written last; with the job in it, it also tells a second call that all is done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from .prefix import prefix_path

EXAMPLES = 5  # of each rule and of broken records, kept in the sidecar
_DETAILS = 20  # reasons of a rule that the sidecar names, the most frequent


@dataclass
class RuleCount:
    """What one rule dropped, or how many records were broken.

    Attributes:
        count: of them.
        details: by reason.
        examples: the first few, with their place.
    """

    count: int = 0
    details: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, detail: str, example: Callable[[], dict[str, Any]]) -> None:
        """Count one."""
        self.count += 1
        self.details[detail] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example())


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
        prefix: of the training file.
        num_samples: in it.
        num_valid: samples of ``P_valid``.
        rejected: broken records.
        rules: what each rule dropped, by name, in the order of the rules.
        sidecar: content of ``P.json``.
        is_old: whether an earlier run had done all of it.
    """

    prefix: Path
    num_samples: int
    num_valid: int
    rejected: int
    rules: Mapping[str, int]
    sidecar: Mapping[str, Any]
    is_old: bool = False


def valid_prefix(prefix: Path) -> Path:
    """Of the validation samples."""
    return prefix.with_name(f"{prefix.name}_valid")


def place_of(example: Mapping[str, Any]) -> str:
    """File and line, or row of a table, in words."""
    unit = "line" if "line" in example else "row"
    return f"{example['file']}, {unit} {example[unit]}"


def check_flags(workers: int, max_rejects: float) -> None:
    """Refuse numbers that no preparation can run with.

    Raises:
        ConfigError: names the flag.
    """
    if workers < 1:
        raise ConfigError(f"--workers is {workers}; give 1 or more.")
    if not 0 <= max_rejects <= 1:
        raise ConfigError(f"--max-rejects is {max_rejects}; give a share from 0 to 1.")


def checked_prefix(prefix: Path | str, example: str) -> Path:
    """The output prefix, which is no folder; ``example`` completes one.

    Raises:
        DataError: it is one.
    """
    path = Path(prefix)
    if str(prefix).endswith("/") or path.is_dir():
        raise DataError(
            f"{prefix}: the output prefix is a folder; add a name, such as {path / example}."
        )
    return path


def common_fields(merge: Any, side: Any, kind: str, version: int) -> dict[str, Any]:
    """The fields of ``P.json`` that all preparations have; both files tell of the whole preparation."""
    job, tokenizer = merge.job, merge.job.tokenizer
    return {
        "kind": kind,
        "format": version,
        "split": "valid" if side is merge.valid else "train",
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "tokenizer_path": tokenizer.path,
        "vocab_size": tokenizer.vocab_size,
        "eod_id": tokenizer.eod_id,
        "mask_token_id": tokenizer.mask_id,
        "num_samples": side.num_samples,
        "max_length": job.max_length,
        "valid_share": job.valid_share,
        "num_train": merge.train.num_samples,
        "num_valid": merge.valid.num_samples if merge.valid else 0,
        "records": merge.num_records,
        "rules": {name: _plain(count) for name, count in merge.rules.items()},
        "rejects": _plain(merge.rejected),
        "source_files": [file.path for file in job.files],
        "job": job.identity(),
    }


def _plain(count: RuleCount) -> dict[str, Any]:
    details = sorted(count.details.items(), key=lambda pair: (-pair[1], pair[0]))[:_DETAILS]
    return {"count": count.count, "details": dict(details), "examples": count.examples}


def old_result(job: Any) -> Prepared | None:
    """What an earlier run of this very job wrote, if it is complete."""
    try:
        values = json.loads(prefix_path(job.prefix, ".json").read_text(encoding="utf-8"))
        is_same = values["job"] == json.loads(json.dumps(job.identity()))
        if not is_same or values["valid_share"] != job.valid_share:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    prefixes = [job.prefix, *([valid_prefix(job.prefix)] if job.valid_share else [])]
    endings = (".bin", ".idx", ".json")
    if not all(prefix_path(one, ending).exists() for one in prefixes for ending in endings):
        return None
    return result_of(values, job, is_old=True)


def result_of(values: Mapping[str, Any], job: Any, *, is_old: bool = False) -> Prepared:
    """The result that a training file's sidecar tells of."""
    return Prepared(
        prefix=job.prefix,
        num_samples=values["num_train"],
        num_valid=values["num_valid"],
        rejected=values["rejects"]["count"],
        rules={name: found["count"] for name, found in values["rules"].items()},
        sidecar=values,
        is_old=is_old,
    )


def nothing_left(merge: Any, is_valid: bool, noun: str, flags: str) -> str:
    """Why there is nothing to write, as a sentence.

    Args:
        merge: what took all parts in.
        is_valid: whether the validation side is empty.
        noun: of what is prepared.
        flags: that decide what is left, in words.
    """
    name = valid_prefix(merge.job.prefix) if is_valid else merge.job.prefix
    kept = merge.train.num_samples + (merge.valid.num_samples if merge.valid else 0)
    if kept:
        return (
            f"{name}.bin: no {noun} fell to this side of --valid-share {merge.job.valid_share:g}; "
            f"{kept:,} are left: give another share, or more {noun}s."
        )
    counts = [f", {found.count:,} {rule}" for rule, found in merge.rules.items() if found.count]
    return (
        f"{name}.bin: no {noun} is left of {merge.num_records:,} records; {merge.rejected.count:,} broken"
        f"{''.join(counts)}: check the input and {flags}."
    )
