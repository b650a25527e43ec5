"""``prepare_sft(...)``: records with prompts and responses to token files that the sft stage reads.

    P.bin, P.idx          two sequences a sample: prompt, response (pair_files.py)
    P.json                what they are of, counts of the rules, examples of what was dropped
    P.dropped.jsonl       every sample that a rule dropped: file, line, rule, detail; only where there are any
    P.rejects.jsonl       every broken record: file, line, reason; the same
    P_valid.bin ...       samples of the prompts that are kept for validation

Workers make parts in ``P.parts``; killed and called again the command goes on with those that are
there. The output does not depend on the number of workers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from ...tokenizer.load import load_tokenizer
from ..document import Reject
from ..prepared import Prepared, check_flags, checked_prefix, old_result
from ..preprocessing import load_filters
from ..readers import DATA_SUFFIXES, InputFile, Piece, list_inputs, plan_shards, read_piece
from ..readers.paths import RecordError
from .conversation import SampleFields, Turns
from .prepare_job import SftJob
from .prepare_report import closing_lines
from .prepare_run import SftRun
from .rendering import Template
from .rules import rule_options

SHARD_BYTES = 16 << 20
_LOOKED_AT = 100  # records of the first file that are read before any work


@dataclass(frozen=True)
class PrepareOptions:
    """What decides the output beyond inputs and tokenizer.

    Attributes:
        prompt_key: field of the prompt, a string or messages.
        response_key: field of the response.
        messages_key: instead of both, field of a conversation.
        turns: of a conversation, ``last`` or ``each`` turn of the assistant.
        template: ``chat`` or ``none`` (rendering.py).
        system: the system's text for prompts that have none; None: the template's.
        max_length: tokens of prompt, response and end token; longer samples are dropped.
        valid_share: of the prompts, for ``P_valid``.
        evaluation_set: ``NAME=FILE`` each; samples that share 13 tokens in a row with one are dropped.
        filters: YAML with options of ``repetition`` and ``decontamination``.
        skip_rule: rules that are not applied (rules.py).
        suffixes: which files of a folder count; default: those of JSON Lines and tables.
        shard_bytes: of input, about, that a worker takes at a time.
    """

    prompt_key: str = "prompt"
    response_key: str = "response"
    messages_key: str | None = None
    turns: Turns = "last"
    template: Template = "chat"
    system: str | None = None
    max_length: int = 4000
    valid_share: float = 0.0
    evaluation_set: Sequence[str] = ()
    filters: Path | None = None
    skip_rule: Sequence[str] = ()
    suffixes: Sequence[str] | None = None
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ConfigError(f"--max-length is {self.max_length}; give 2 or more.")
        if not 0 <= self.valid_share < 1:
            raise ConfigError(f"--valid-share is {self.valid_share}; give 0 or more, under 1.")
        if self.template == "none" and self.messages_key is not None:
            raise ConfigError("--template none takes no messages; leave --messages-key out.")
        if self.template == "none" and self.system is not None:
            raise ConfigError("--template none has no system's turn; leave --system out.")


def prepare_sft(
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
    """Prepare SFT data (SPEC 5): rules, split and rendering, the same on any number of workers.

    Args:
        input: JSON Lines (plain, gz, zst), Parquet, Arrow folders of ``datasets``.
        output_prefix: path without ending; its folder is made.
        tokenizer: folder or SentencePiece model.
        workers: processes.
        max_rejects: share of records that may be broken; 0 refuses the first.
        overwrite: replace what lies there.
        quiet: no progress and no closing lines.
        options: fields of ``PrepareOptions``.

    Raises:
        UserError: one sentence: bad flags or input, another run's output, too many broken records.
    """
    started = time.monotonic()
    check_flags(workers, max_rejects)
    job = plan_job(input, output_prefix, tokenizer, PrepareOptions(**options))
    result = None if overwrite else old_result(job)
    if result is None:
        _check_first_records(job)
        result = SftRun(job, max_rejects, overwrite=overwrite, quiet=quiet).run(workers)
    if not quiet:
        print("\n".join(closing_lines(result, time.monotonic() - started)))
    return result


def plan_job(
    inputs: Sequence[Path | str],
    output_prefix: Path | str,
    tokenizer: Path | str,
    options: PrepareOptions,
) -> SftJob:
    """List the inputs and cut the work into shards."""
    filters = load_filters(options.filters) if options.filters else ()
    rules = rule_options(options.skip_rule, filters, options.evaluation_set)
    files = _inputs(inputs, options.suffixes)
    return SftJob(
        prefix=checked_prefix(output_prefix, "sft"),
        files=tuple(files),
        shards=tuple(plan_shards(files, options.shard_bytes)),
        tokenizer=load_tokenizer(tokenizer),
        fields=SampleFields(
            options.prompt_key, options.response_key, options.messages_key, options.turns
        ),
        rules=rules,
        template=options.template,
        system=options.system,
        max_length=options.max_length,
        valid_share=options.valid_share,
    )


def _inputs(inputs: Sequence[Path | str], suffixes: Sequence[str] | None) -> list[InputFile]:
    files = list_inputs([str(path) for path in inputs], tuple(suffixes or DATA_SUFFIXES))
    for file in files:
        if file.format == "text":
            raise DataError(
                f"{file.path} is no JSON Lines, Parquet or Arrow file by its name; give one that holds "
                "prompts and responses."
            )
    return files


def _check_first_records(job: SftJob) -> None:
    """Refuse fields that none of the first records has, before hours of work.

    Raises:
        DataError: none gives a sample; says why the first does not.
    """
    adapter = job.fields.adapter
    for number, file in enumerate(job.files):
        reader = read_piece(Piece(number), job.files, adapter, fields=adapter.keys)
        reasons = []
        for outcome in itertools.islice(reader, _LOOKED_AT):
            if isinstance(outcome, Reject):
                reasons.append((outcome.record, outcome.reason))
                continue
            try:
                job.fields.samples(outcome.fields)
                return
            except RecordError as error:
                reasons.append((outcome.record, str(error)))
        if reasons:
            record, reason = reasons[0]
            raise DataError(
                f"{file.path}, record {record + 1}: {reason}; none of the first {len(reasons)} records is "
                "a sample: name the fields with --prompt-key and --response-key, or --messages-key."
            )
