"""What a preparation of infilling data says of its output: sidecar ``P.json`` and the closing lines."""

from __future__ import annotations

from typing import Any

from ..contamination import decontaminated_against
from ..filters import merge_counters
from ..prepared import Prepared, common_fields
from .merge import InfillMerge
from .text_files import FORMAT_VERSION, KIND
from .text_writer import TextWriter


def sidecar(merge: InfillMerge, side: TextWriter) -> dict[str, Any]:
    """``P.json`` of one of the files; both tell of the whole preparation."""
    filters = merge_counters(merge.filters)
    return {
        **common_fields(merge, side, KIND, FORMAT_VERSION),
        "dtype": "uint8",
        "bytes": side.num_bytes,
        "max_tokens": side.max_tokens,
        "filters": filters,
        "decontaminated_against": decontaminated_against({"filters": filters}),
    }


def closing_lines(result: Prepared, seconds: float) -> list[str]:
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
