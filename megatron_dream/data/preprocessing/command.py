"""``preprocess(...)``: from what a person names to a job, and the job done."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ...config.load import load_config
from ...errors import ConfigError, DataError
from ...tokenizer.base import Tokenizer
from ...tokenizer.load import load_tokenizer
from ..filters import FilterSpec
from ..readers import (
    SHARD_BYTES,
    Adapter,
    InputFile,
    Limits,
    check_adapter,
    corpus,
    list_inputs,
    plan_shards,
    text_adapter,
)
from .job import Job, SpecialTokens, TokenizerIdentity
from .local_pool import LocalPool
from .mpi import from_root, start_mpi
from .report import PreprocessResult, closing_lines
from .run import run_job

MAX_FILE_BYTES = 64 * 10**9
MAX_REJECT_SHARE = 0.01
# Bytes of text a token, for the room that is said beforehand: 80 MB of Python source have 3.8 under
# Qwen2's tokenizer; a little less, so that the room is rather too much.
_BYTES_A_TOKEN = 3.2
_UNPACKED = {"gz": 5.0, "zst": 5.0, None: 1.0}  # text for each stored byte, about


@dataclass(frozen=True)
class PreprocessOptions:
    r"""What decides the output beyond inputs and tokenizer.

    Attributes:
        suffixes: which files of a folder count; default: the data set's, or ``.py``.
        dataset: a known corpus (readers/corpora.py), which says where its text is.
        template: instead of a field, such as ``"{question}\n{answer}"``.
        source: the corpus's name in a recipe; part of every document's id.
        filters: what documents have to pass.
        special_tokens_in_text: ``as_text``: a literal such as ``<|im_start|>`` stays the characters it
            is of; ``as_ids``: it becomes the token, as in Megatron-LM's tool, and is counted.
        max_file_bytes: more makes several files, ``P_00000`` and so on.
        max_reject_share: of records that may be bad.
        shard_bytes: of input, about, a worker takes at a time.
        limits: of lines, compression and tables.
    """

    suffixes: Sequence[str] | None = None
    dataset: str | None = None
    template: str | None = None
    source: str = ""
    filters: Sequence[FilterSpec] = ()
    special_tokens_in_text: SpecialTokens = "as_text"
    max_file_bytes: int = MAX_FILE_BYTES
    max_reject_share: float = MAX_REJECT_SHARE
    shard_bytes: int = SHARD_BYTES
    limits: Limits = field(default_factory=Limits)


def preprocess(
    inputs: Sequence[Path | str],
    output_prefix: Path | str,
    tokenizer: Tokenizer | Path | str,
    json_key: str = "text",
    append_eod: bool = False,
    workers: int = 1,
    *,
    part: str | None = None,
    use_mpi: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> PreprocessResult | None:
    """Turn text into ``output_prefix``.bin and .idx, byte for byte those of megatron-core's builder.

    Killed anywhere and called again it goes on; the files do not depend on workers, ranks or
    interruptions.

    Args:
        inputs: files, folders, globs, ``@lists``, local or remote (readers/listing.py).
        output_prefix: path without ending; its folder is made.
        tokenizer: a tokenizer or where to load it from.
        json_key: the field that holds the text; dotted names reach into fields.
        append_eod: whether every document ends with ``<|endoftext|>``.
        workers: processes (of each rank).
        part: ``I/N``, one task of a job array; nothing is merged.
        use_mpi: share the work out over MPI ranks.
        overwrite: replace what lies there.
        quiet: no progress and no closing lines.
        options: fields of ``PreprocessOptions``.

    Returns:
        What was written; None on MPI ranks other than 0 and in tasks of an array.

    Raises:
        UserError: one sentence: bad input, another run's output, no room.
    """
    if workers < 1:
        raise DataError(f"--workers is {workers}; give 1 or more.")
    started = time.monotonic()
    world = start_mpi() if use_mpi else None
    path = str(tokenizer.path if isinstance(tokenizer, Tokenizer) else tokenizer)
    chosen = PreprocessOptions(**options)
    with LocalPool(path, workers) as pool:  # loads while this process plans
        adapter = adapter_of(chosen.dataset, json_key, chosen.template)
        plan = partial(plan_job, inputs, output_prefix, tokenizer, adapter, chosen, append_eod)
        job = from_root(world, plan)
        if not quiet and (world is None or world.Get_rank() == 0):
            print(room_needed(job), file=sys.stderr)
        result = run_job(job, pool, part=part, world=world, overwrite=overwrite, quiet=quiet)
    if result is not None and not quiet:
        print("\n".join(closing_lines(result, time.monotonic() - started)))
    return result


def plan_job(
    inputs: Sequence[Path | str],
    output_prefix: Path | str,
    tokenizer: Tokenizer | Path | str,
    adapter: Adapter,
    options: PreprocessOptions,
    append_eod: bool,
) -> Job:
    """List the inputs, look at the first records, and cut the work into shards."""
    suffixes = options.suffixes or adapter.suffixes or (".py",)
    files = list_inputs([str(path) for path in inputs], suffixes)
    check_adapter(files, adapter, options.limits)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    return Job(
        prefix=_checked_prefix(output_prefix),
        files=tuple(files),
        shards=tuple(plan_shards(files, options.shard_bytes)),
        tokenizer_path=str(tokenizer.path),
        tokenizer=TokenizerIdentity.of(tokenizer),
        adapter=adapter,
        limits=options.limits,
        source=options.source,
        filters=tuple(options.filters),
        append_eod=append_eod,
        special_tokens_in_text=options.special_tokens_in_text,
        max_file_bytes=options.max_file_bytes,
        max_reject_share=options.max_reject_share,
    )


@dataclass
class FilterFile:
    """Content of the file that ``--filters`` names."""

    filters: list[FilterSpec] = field(default_factory=list)


def load_filters(path: Path | str) -> list[FilterSpec]:
    """Read ``filters: [...]`` from YAML.

    Raises:
        ConfigError: with file, line and field.
    """
    return load_config(path, base=FilterFile).filters


def adapter_of(dataset: str | None, json_key: str, template: str | None) -> Adapter:
    """Where the text is, as the command line says it.

    Raises:
        ConfigError: it says so twice.
    """
    if dataset is not None:
        if template is not None or json_key != "text":
            raise ConfigError(
                f"--dataset {dataset} says where the text is; leave --json-key and --template out."
            )
        return corpus(dataset)
    return text_adapter(json_key, template)


def _checked_prefix(prefix: Path | str) -> Path:
    path = Path(prefix)
    if str(prefix).endswith("/") or path.is_dir():
        raise DataError(
            f"{prefix}: the output prefix is a folder; add a name, such as {path / 'train'}."
        )
    return path


def estimated_tokens(files: Sequence[InputFile]) -> int:
    """How many tokens inputs will make, about, before any filter; only their sizes are looked at."""
    text = sum(file.size * _UNPACKED[file.compression] for file in files)
    return int(text / _BYTES_A_TOKEN)


def free_bytes(folder: Path) -> int:
    """Free where a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def room_needed(job: Job) -> str:
    """Bytes that the output will take, about, and those that are free; said before any work."""
    needed = estimated_tokens(job.files) * job.dtype.itemsize
    folder = job.prefix.parent
    free = free_bytes(folder)
    warning = "; NOT ENOUGH" if free < needed else ""
    return (
        f"{len(job.files):,} files, {job.input_bytes / 1e9:,.2f} GB, {len(job.shards):,} shards; output "
        f"about {needed / 1e9:,.2f} GB of {job.dtype.name}, {free / 1e9:,.1f} GB free at {folder}{warning}"
    )
