"""What a preparation of SFT data says of its output: sidecar ``P.json`` and the closing lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...tokenizer.hf_files import CHAT_TEMPLATE
from ..prefix import prefix_path
from ..preparing import RuleCount, valid_prefix
from .merging import Merge
from .pair_files import PairWriter
from .prepare_job import FORMAT_VERSION, KIND, SftJob

_DETAILS = 20  # reasons of a rule that the sidecar names, the most frequent
_TABLE_DETAILS = 4


@dataclass(frozen=True)
class SftResult:
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


def sidecar(merge: Merge, side: PairWriter) -> dict[str, Any]:
    """``P.json`` of one of the files; both tell of the whole preparation."""
    job, tokenizer = merge.job, merge.job.tokenizer
    return {
        "kind": KIND,
        "format": FORMAT_VERSION,
        "split": "valid" if side is merge.valid else "train",
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "tokenizer_path": tokenizer.path,
        "vocab_size": tokenizer.vocab_size,
        "eod_id": tokenizer.eod_id,
        "mask_token_id": tokenizer.mask_id,
        "append_eod": False,  # the stage ends responses, as its recipe says
        "dtype": job.dtype.name,
        "tokens": side.num_tokens,
        "documents": side.num_samples,
        "num_samples": side.num_samples,
        "max_prompt_tokens": side.longest["prompt"],
        "max_response_tokens": side.longest["response"],
        "max_row_tokens": side.longest["row"],
        "template": job.template,
        "template_sha256": _template_digest(job),
        "system": job.system,
        "turns": job.fields.turns if job.fields.messages else None,
        "max_length": job.max_length,
        "valid_share": job.valid_share,
        "num_train": merge.train.num_samples,
        "num_valid": merge.valid.num_samples if merge.valid else 0,
        "records": merge.num_records,
        "rules": {name: _plain(count) for name, count in merge.rules.items()},
        "rejects": _plain(merge.rejected),
        "decontaminated_against": job.rules.evaluation_sets,
        "source_files": [file.path for file in job.files],
        "job": job.identity(),
    }


def _template_digest(job: SftJob) -> str | None:
    return hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest() if job.template == "chat" else None


def _plain(count: RuleCount) -> dict[str, Any]:
    details = sorted(count.details.items(), key=lambda pair: (-pair[1], pair[0]))[:_DETAILS]
    return {"count": count.count, "details": dict(details), "examples": count.examples}


def old_result(job: SftJob) -> SftResult | None:
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


def result_of(values: Mapping[str, Any], job: SftJob, *, is_old: bool = False) -> SftResult:
    """The result that a training file's sidecar tells of."""
    return SftResult(
        prefix=job.prefix,
        num_samples=values["num_train"],
        num_valid=values["num_valid"],
        rejected=values["rejects"]["count"],
        rules={name: found["count"] for name, found in values["rules"].items()},
        sidecar=values,
        is_old=is_old,
    )


def nothing_left(merge: Merge, *, is_valid: bool) -> str:
    """Why there is nothing to write, as a sentence."""
    name = valid_prefix(merge.job.prefix) if is_valid else merge.job.prefix
    counts = [f"{found.count:,} {rule}" for rule, found in merge.rules.items() if found.count]
    kept = merge.train.num_samples + (merge.valid.num_samples if merge.valid else 0)
    if kept:
        return (
            f"{name}.bin: no sample fell to this side of --valid-share {merge.job.valid_share:g}; "
            f"{kept:,} are left: give another share, or more samples."
        )
    return (
        f"{name}.bin: no sample is left of {merge.num_records:,} records; {merge.rejected.count:,} broken"
        f"{''.join(f', {count}' for count in counts)}: check the input and the rules."
    )


def closing_lines(result: SftResult, seconds: float) -> list[str]:
    """What a person reads at the end."""
    values = result.sidecar
    valid = f", {result.num_valid:,} for validation" if result.num_valid else ""
    if result.is_old:
        return [f"{result.prefix}.bin: complete already, {result.num_samples:,} samples{valid}."]
    dropped, rejected = sum(result.rules.values()), result.rejected
    drops = f" (named in {result.prefix}.dropped.jsonl)" if dropped else ""
    rejects = f" (named in {result.prefix}.rejects.jsonl)" if rejected else ""
    against = values["decontaminated_against"]
    lines = [
        f"{result.prefix}.bin: {result.num_samples:,} samples{valid}, {values['tokens']:,} tokens "
        f"({values['dtype']}) in {seconds:,.1f} s, {values['tokens'] / max(seconds, 1e-9):,.0f} tokens/s; "
        f"longest prompt {values['max_prompt_tokens']:,}, response {values['max_response_tokens']:,}, "
        f"row {values['max_row_tokens']:,} tokens; {dropped:,} samples dropped{drops}, {rejected:,} records "
        f"broken{rejects}.",
        f"{'rule':<16}{'dropped':>13}",
    ]
    for name, found in values["rules"].items():
        lines.append(f"{name:<16}{found['count']:>13,}")
        shown = list(found["details"].items())[:_TABLE_DETAILS]
        lines += [f"  {count:,}: {detail}" for detail, count in shown]
    lines.append(
        f"decontaminated against: {', '.join(against)}" if against else "not decontaminated"
    )
    return lines
