"""What a preparation of SFT data says of its output: sidecar ``P.json`` and the closing lines."""

from __future__ import annotations

import hashlib
from typing import Any

from ...tokenizer.hf_files import CHAT_TEMPLATE
from ..prepared import Prepared, common_fields
from .merging import Merge
from .pair_files import PairWriter
from .prepare_job import FORMAT_VERSION, KIND, SftJob

_TABLE_DETAILS = 4


def sidecar(merge: Merge, side: PairWriter) -> dict[str, Any]:
    """``P.json`` of one of the files; both tell of the whole preparation."""
    job = merge.job
    return {
        **common_fields(merge, side, KIND, FORMAT_VERSION),
        "append_eod": False,  # the stage ends responses, as its recipe says
        "dtype": job.dtype.name,
        "tokens": side.num_tokens,
        "documents": side.num_samples,
        "max_prompt_tokens": side.longest["prompt"],
        "max_response_tokens": side.longest["response"],
        "max_row_tokens": side.longest["row"],
        "template": job.template,
        "template_sha256": _template_digest(job),
        "system": job.system,
        "turns": job.fields.turns if job.fields.messages else None,
        "decontaminated_against": job.rules.evaluation_sets,
    }


def _template_digest(job: SftJob) -> str | None:
    return hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest() if job.template == "chat" else None


def closing_lines(result: Prepared, seconds: float) -> list[str]:
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
