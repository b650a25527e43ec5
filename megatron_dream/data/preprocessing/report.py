"""What a job's outputs say of themselves: sidecar ``P.json``, the list of rejects, the closing lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files import atomic_write
from ..contamination import decontaminated_against
from ..filters import counters_table, merge_counters
from ..prefix import prefix_path
from .job import Job, first_difference
from .merge import OutputFile
from .parts import PartRecord, add_licences, part_path

SIDECAR_VERSION = 2


@dataclass(frozen=True)
class PreprocessResult:
    """What was written.

    Attributes:
        prefixes: of the token files; several where one would be too large.
        documents: written.
        tokens: written, EOD tokens included.
        empty: documents without ids, left out.
        rejected: records that could not be read, named in ``P.rejects.jsonl``.
        dropped: documents that a filter took out.
        dtype: of the ids on disk.
        work: seconds of all workers together, by kind of work.
        filters: counters of the filters.
        is_old: whether an earlier run had done all of it.
    """

    prefixes: tuple[Path, ...]
    documents: int
    tokens: int
    empty: int
    rejected: int
    dropped: int
    dtype: str
    work: Mapping[str, float]
    filters: Mapping[str, Any]
    is_old: bool = False

    @property
    def prefix(self) -> Path:
        """Of the first file."""
        return self.prefixes[0]


def sidecars(
    job: Job,
    records: Sequence[PartRecord],
    outputs: Sequence[OutputFile],
) -> Iterator[dict[str, Any]]:
    """``P.json`` of every output, in order; the first tells of the whole job."""
    licences: dict[str, list[int]] = {}
    for record in records:
        add_licences(licences, record.licences)
    whole = {
        "empty": sum(record.empty for record in records),
        "rejected": sum(record.rejected for record in records),
        "dropped": sum(record.dropped for record in records),
        "special_tokens_as_ids": dict(sum((Counter(r.special_tokens) for r in records), Counter())),
        "licences": licences,
        "filters": merge_counters([record.filters for record in records]),
        "work_seconds": _total_seconds(records),
        "outputs": [output.prefix.name for output in outputs],
        # The ids of all outputs one after another, in these ranges: [bytes, sha256].
        "ranges": [
            [record.tokens * job.dtype.itemsize, record.sha256[".bin"]] for record in records
        ],
        "job": job.identity(),
    }
    for number, output in enumerate(outputs):
        yield {
            "version": SIDECAR_VERSION,
            "tokenizer_fingerprint": job.tokenizer.fingerprint,
            "vocab_size": job.tokenizer.vocab_size,
            "eod_id": job.tokenizer.eod_id,
            "mask_token_id": job.tokenizer.mask_id,
            "append_eod": job.append_eod,
            "decontaminated_against": decontaminated_against({"filters": whole["filters"]}),
            "dtype": job.dtype.name,
            "source": job.source,
            "tokens": output.num_bytes // job.dtype.itemsize,
            "documents": output.end - output.first,
            **(whole if number == 0 else {"part_of": outputs[0].prefix.name}),
        }


def completed_result(job: Job) -> PreprocessResult | None:
    """What an earlier run of this very job wrote, if it was completed.

    Raises:
        DataError: the outputs are of another job.
    """
    for prefix in (job.prefix, job.prefix.with_name(f"{job.prefix.name}_00000")):
        try:
            values = json.loads(prefix_path(prefix, ".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        if not prefix_path(prefix, ".idx").exists():
            continue
        here = json.loads(json.dumps(job.identity()))
        if difference := first_difference(values.get("job", {}), here):
            raise DataError(
                f"{prefix}.bin exists and was made with {difference}; give another prefix, or "
                f"--overwrite to replace it."
            )
        return _result(job, values)
    return None


def _result(job: Job, values: dict[str, Any]) -> PreprocessResult:
    prefixes = tuple(job.prefix.with_name(name) for name in values["outputs"])
    texts = [prefix_path(prefix, ".json").read_text(encoding="utf-8") for prefix in prefixes]
    each = [json.loads(text) for text in texts]
    return PreprocessResult(
        prefixes=prefixes,
        documents=sum(one["documents"] for one in each),
        tokens=sum(one["tokens"] for one in each),
        empty=values["empty"],
        rejected=values["rejected"],
        dropped=values["dropped"],
        dtype=values["dtype"],
        work=values["work_seconds"],
        filters=values["filters"],
        is_old=True,
    )


def result_of(
    job: Job, records: Sequence[PartRecord], outputs: Sequence[OutputFile]
) -> PreprocessResult:
    """The result of a run that has just put its parts together."""
    return PreprocessResult(
        prefixes=tuple(output.prefix for output in outputs),
        documents=sum(record.documents for record in records),
        tokens=sum(record.tokens for record in records),
        empty=sum(record.empty for record in records),
        rejected=sum(record.rejected for record in records),
        dropped=sum(record.dropped for record in records),
        dtype=job.dtype.name,
        work=_total_seconds(records),
        filters=merge_counters([record.filters for record in records]),
    )


def _total_seconds(records: Sequence[PartRecord]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for record in records:
        total.update(record.seconds)
    return {name: round(value, 3) for name, value in total.items()}


def write_rejects(job: Job, records: Mapping[int, PartRecord]) -> Path | None:
    """Write ``P.rejects.jsonl`` from the parts that exist; None, and no file, where nothing is bad.

    A part knows a record by its number in its piece of the file; lines of the whole file are counted
    here, over the pieces before it, where all of these are done.
    """
    path = prefix_path(job.prefix, ".rejects.jsonl")
    if not any(record.rejected for record in records.values()):
        path.unlink(missing_ok=True)
        return None
    with atomic_write(path) as stream:
        for line in _reject_lines(job, records):
            stream.write(line)
    return path


def _reject_lines(job: Job, records: Mapping[int, PartRecord]) -> Iterator[str]:
    passed: Counter[int] = Counter()  # records of each file in the shards before
    for shard in sorted(records):
        record = records[shard]
        starts = []
        for file, count in record.pieces:
            starts.append((file, passed[file]))
            passed[file] += count
        if not record.rejected:
            continue
        text = part_path(job.parts, shard, ".rejects.jsonl").read_text(encoding="utf-8")
        for entry in map(json.loads, text.splitlines()):
            file, before = starts[entry["piece"]]
            is_lines = job.files[file].format == "jsonl"
            number = before + entry["record"] + (1 if is_lines else 0)
            place = {"file": job.files[file].path, "line" if is_lines else "row": number}
            yield json.dumps({**place, "reason": entry["reason"]}, ensure_ascii=False) + "\n"


def closing_lines(result: PreprocessResult, seconds: float) -> list[str]:
    """What a person reads at the end."""
    names = ", ".join(f"{prefix}.bin" for prefix in result.prefixes)
    if result.is_old:
        return [
            f"{names}: complete already, {result.documents:,} documents, {result.tokens:,} tokens."
        ]
    rejects = f" (named in {result.prefix}.rejects.jsonl)" if result.rejected else ""
    work = sum(result.work.values()) or 1.0
    shares = ", ".join(f"{name} {spent / work:.0%}" for name, spent in result.work.items())
    return [
        f"{names}: {result.documents:,} documents, {result.tokens:,} tokens ({result.dtype}) in "
        f"{seconds:,.1f} s, {result.tokens / max(seconds, 1e-9):,.0f} tokens/s; {result.empty:,} empty, "
        f"{result.dropped:,} filtered out, {result.rejected:,} rejected{rejects}.",
        f"Work of all workers: {work:,.1f} s ({shares}).",
        *(counters_table(result.filters) or ["not decontaminated"]),
    ]
