"""``prepare_infill(...)``: records or source files to texts that the infilling task of the sft stage reads.

    P.bin, P.idx          UTF-8 bytes, one sequence a text (text_files.py, which says why no ids)
    P.json                what they are of, counts of the rules, examples of what was dropped
    P.dropped.jsonl       every text that a rule dropped: file, line, rule, detail; only where there are any
    P.rejects.jsonl       every broken record: file, line, reason; the same
    P_valid.bin ...       texts that are kept for validation, by their hash

Workers make parts in ``P.parts``; killed and called again the command goes on with those that are
there. The output does not depend on the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...tokenizer.load import load_tokenizer
from ..prepared import Prepared, check_flags, checked_prefix, old_result
from ..preprocessing import load_filters
from ..readers import DATA_SUFFIXES, check_adapter, list_inputs, plan_shards, text_adapter
from .job import BOS_AND_EOS, InfillJob, Take
from .report import closing_lines
from .run import InfillRun

SHARD_BYTES = 16 << 20


@dataclass(frozen=True)
class InfillOptions:
    """What decides the output beyond inputs and tokenizer.

    Attributes:
        json_key: field of the text.
        response_key: instead: field of a response; the same, named as for prepare-sft.
        take: the ``whole`` text, or the code inside its closed ``fences``, each a text of its own.
        max_length: tokens of a text with BOS and EOS; longer texts are dropped.
        min_lines: that are not blank; texts with fewer are dropped.
        min_characters: the same.
        filters: YAML with filters (docs/data.md).
        valid_share: of the texts, for ``P_valid``.
        suffixes: which files of a folder count; default: ``.py``, JSON Lines and tables.
        shard_bytes: of input, about, that a worker takes at a time.
    """

    json_key: str | None = None
    response_key: str | None = None
    take: Take = "whole"
    max_length: int = 1024
    min_lines: int = 2
    min_characters: int = 16
    filters: Path | None = None
    valid_share: float = 0.0
    suffixes: Sequence[str] | None = None
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if self.json_key is not None and self.response_key is not None:
            raise ConfigError("--json-key and --response-key name one field; give one of them.")
        if self.max_length <= BOS_AND_EOS:
            raise ConfigError(
                f"--max-length is {self.max_length}; give more than {BOS_AND_EOS}, BOS and EOS count."
            )
        if self.min_lines < 1 or self.min_characters < 1:
            raise ConfigError(
                f"--min-lines is {self.min_lines} and --min-characters {self.min_characters}; give 1 or more."
            )
        if not 0 <= self.valid_share < 1:
            raise ConfigError(f"--valid-share is {self.valid_share}; give 0 or more, under 1.")


def prepare_infill(
    input: Sequence[Path | str],
    output_prefix: Path | str,
    tokenizer: Path | str,
    *,
    workers: int = 1,
    max_rejects: float = 0.01,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Prepared:
    """Prepare texts for infilling (SPEC 6), the same on any number of workers.

    Args:
        input: JSON Lines (plain, gz, zst), Parquet, Arrow folders of ``datasets``, source files.
        output_prefix: path without ending; its folder is made.
        tokenizer: folder or SentencePiece model; counts tokens, and the run must have the same.
        workers: processes.
        max_rejects: share of records that may be broken; 0 refuses the first.
        overwrite: replace what lies there.
        quiet: no progress and no closing lines.
        options: fields of ``InfillOptions``.

    Raises:
        UserError: one sentence: bad flags or input, another run's output, too many broken records.
    """
    started = time.monotonic()
    check_flags(workers, max_rejects)
    job = plan_infill(input, output_prefix, tokenizer, InfillOptions(**options))
    result = None if overwrite else old_result(job)
    if result is None:
        check_adapter(job.files, job.adapter)
        result = InfillRun(job, max_rejects, overwrite=overwrite, quiet=quiet).run(workers)
    if not quiet:
        print("\n".join(closing_lines(result, time.monotonic() - started)))
    return result


def plan_infill(
    inputs: Sequence[Path | str],
    output_prefix: Path | str,
    tokenizer: Path | str,
    options: InfillOptions,
) -> InfillJob:
    """List the inputs and cut the work into shards."""
    suffixes = tuple(options.suffixes or (".py", *DATA_SUFFIXES))
    files = list_inputs([str(path) for path in inputs], suffixes)
    return InfillJob(
        prefix=checked_prefix(output_prefix, "infill"),
        files=tuple(files),
        shards=tuple(plan_shards(files, options.shard_bytes)),
        tokenizer=load_tokenizer(tokenizer),
        adapter=text_adapter(options.json_key or options.response_key or "text"),
        take=options.take,
        max_length=options.max_length,
        min_lines=options.min_lines,
        min_characters=options.min_characters,
        filters=tuple(load_filters(options.filters)) if options.filters else (),
        valid_share=options.valid_share,
    )
