"""What a preparation of infilling data says of its output: sidecar ``P.json`` and the closing lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contamination import decontaminated_against
from ..filters import merge_counters
from ..prefix import prefix_path
from ..preparing import RuleCount, valid_prefix
from .job import InfillJob
from .merge import InfillMerge
from .text_files import FORMAT_VERSION, KIND
from .text_writer import TextWriter

_DETAILS = 20  # reasons of a rule that the sidecar names, the most frequent


@dataclass(frozen=True)
class InfillResult:
    """What was written.

    Attributes:
        prefix: of the training file.
        num_samples: in it.
        num_valid: texts of ``P_valid``.
        rejected: broken records.
        rules: what each rule dropped, by name.
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


def sidecar(merge: InfillMerge, side: TextWriter) -> dict[str, Any]:
    """``P.json`` of one of the files; both tell of the whole preparation."""
    job, tokenizer = merge.job, merge.job.tokenizer
    filters = merge_counters(merge.filters)
    return {
        "kind": KIND,
        "format": FORMAT_VERSION,
        "split": "valid" if side is merge.valid else "train",
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "tokenizer_path": tokenizer.path,
        "vocab_size": tokenizer.vocab_size,
        "eod_id": tokenizer.eod_id,
        "mask_token_id": tokenizer.mask_id,
        "dtype": "uint8",
        "num_samples": side.num_samples,
        "bytes": side.num_bytes,
        "max_tokens": side.max_tokens,
        "max_length": job.max_length,
        "valid_share": job.valid_share,
        "num_train": merge.train.num_samples,
        "num_valid": merge.valid.num_samples if merge.valid else 0,
        "records": merge.num_records,
        "rules": {name: _plain(count) for name, count in merge.rules.items()},
        "rejects": _plain(merge.rejected),
        "filters": filters,
        "decontaminated_against": decontaminated_against({"filters": filters}),
        "source_files": [file.path for file in job.files],
        "job": job.identity(),
    }


def _plain(count: RuleCount) -> dict[str, Any]:
    details = sorted(count.details.items(), key=lambda pair: (-pair[1], pair[0]))[:_DETAILS]
    return {"count": count.count, "details": dict(details), "examples": count.examples}


def old_result(job: InfillJob) -> InfillResult | None:
    """What an earlier run of this very job wrote, if it is complete."""
    try:
        values = json.loads(prefix_path(job.prefix, ".json").read_text(encoding="utf-8"))
        if values["job"] != json.loads(json.dumps(job.identity())):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    prefixes = [job.prefix, *([valid_prefix(job.prefix)] if job.valid_share else [])]
    endings = (".bin", ".idx", ".json")
    if not all(prefix_path(one, ending).exists() for one in prefixes for ending in endings):
        return None
    return result_of(values, job, is_old=True)


def result_of(values: Mapping[str, Any], job: InfillJob, *, is_old: bool = False) -> InfillResult:
    """The result that a training file's sidecar tells of."""
    return InfillResult(
        prefix=job.prefix,
        num_samples=values["num_train"],
        num_valid=values["num_valid"],
        rejected=values["rejects"]["count"],
        rules={name: found["count"] for name, found in values["rules"].items()},
        sidecar=values,
        is_old=is_old,
    )


def nothing_left(merge: InfillMerge, *, is_valid: bool) -> str:
    """Why there is nothing to write, as a sentence."""
    name = valid_prefix(merge.job.prefix) if is_valid else merge.job.prefix
    kept = merge.train.num_samples + (merge.valid.num_samples if merge.valid else 0)
    if kept:
        return (
            f"{name}.bin: no text fell to this side of --valid-share {merge.job.valid_share:g}; "
            f"{kept:,} are left: give another share, or more texts."
        )
    counts = [f", {found.count:,} {rule}" for rule, found in merge.rules.items() if found.count]
    return (
        f"{name}.bin: no text is left of {merge.num_records:,} records; {merge.rejected.count:,} broken"
        f"{''.join(counts)}: check the input, --json-key, --from and --max-length."
    )


def closing_lines(result: InfillResult, seconds: float) -> list[str]:
    """What a person reads at the end."""
    values = result.sidecar
    valid = f", {result.num_valid:,} for validation" if result.num_valid else ""
    if result.is_old:
        return [f"{result.prefix}.bin: complete already, {result.num_samples:,} texts{valid}."]
    dropped = sum(result.rules.values())
    drops = f" (named in {result.prefix}.dropped.jsonl)" if dropped else ""
    rejects = f" (named in {result.prefix}.rejects.jsonl)" if result.rejected else ""
    against = values["decontaminated_against"]
    return [
        f"{result.prefix}.bin: {result.num_samples:,} texts{valid}, {values['bytes']:,} bytes in "
        f"{seconds:,.1f} s; longest {values['max_tokens']:,} tokens; {dropped:,} texts dropped{drops}, "
        f"{result.rejected:,} records broken{rejects}.",
        f"{'rule':<18}{'dropped':>13}",
        *(f"{name:<18}{count:>13,}" for name, count in result.rules.items()),
        f"decontaminated against: {', '.join(against)}" if against else "not decontaminated",
    ]
