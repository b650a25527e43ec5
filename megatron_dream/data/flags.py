"""Flags of the commands that work on data, apart from what they call: the command line starts at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_preprocess_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``preprocess``. Those that a recipe may hold too are None or false when not given."""
    add = parser.add_argument
    add("--recipe", type=Path, metavar="F.yaml", help="of a mixture: all its sources in turn")
    add("--source", nargs="+", default=[], metavar="NAME", help="only these of the recipe")
    add("--input", nargs="+", metavar="PATH", help="files, folders, globs, @lists, URLs")
    add("--output-prefix", type=Path, metavar="P")
    add("--tokenizer", type=Path, metavar="FOLDER_OR_MODEL")
    add("--json-key", metavar="NAME", help="field that holds the text (text)")
    add("--template", metavar="T", help="a text made of fields, such as '{question} {answer}'")
    add("--dataset", metavar="NAME", help="a known corpus, which says where its text is")
    add("--suffixes", nargs="+", metavar="SUFFIX", help="which files of a folder count (.py)")
    add("--filters", type=Path, metavar="F.yaml", help="what documents have to pass (docs/data.md)")
    add("--append-eod", action="store_true", help="end each document with EOD")
    add(
        "--special-tokens-in-text",
        choices=("as_text", "as_ids"),
        help="what a literal such as <|im_end|> in a text becomes (as_text)",
    )
    _add_work_flags(parser)


def _add_work_flags(parser: argparse.ArgumentParser) -> None:
    """How the work is done; ``dest`` is the name that the function has for it."""
    add = parser.add_argument
    add("--workers", type=int, default=1, metavar="N", help="processes (of each rank)")
    add("--mpi", dest="use_mpi", action="store_true", help="share the work out over MPI ranks")
    add("--part", metavar="I/N", help="one task of a job array; the call without it merges")
    add("--overwrite", action="store_true", help="replace what another run wrote or began")
    add(
        "--max-rejects",
        dest="max_reject_share",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="bad records allowed (0.01)",
    )
    add(
        "--max-file-gb",
        dest="max_file_bytes",
        type=_gigabytes,
        default=64 * 10**9,
        metavar="GB",
        help="larger outputs are several files (64)",
    )
    add(
        "--shard-mb",
        dest="shard_bytes",
        type=_megabytes,
        default=64 * 10**6,
        metavar="MB",
        help="input a worker takes at a time (64)",
    )


def _gigabytes(text: str) -> int:
    return int(float(text) * 1e9)


def _megabytes(text: str) -> int:
    return int(float(text) * 1e6)


def add_plan_data_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``plan-data``."""
    add = parser.add_argument
    add("--recipe", type=Path, metavar="FILE.yaml", help="of a mixture (docs/data.md)")
    add(
        "--config",
        type=Path,
        metavar="FILE.yaml",
        help="a run's configuration: its rows and batch; without --recipe its own blend",
    )
    add(
        "--config-out",
        type=Path,
        metavar="FILE.yaml",
        help="write the blend: --config with it, or a part of a configuration",
    )
    add("--sequence-length", type=int, metavar="S", help="tokens of a row (2048)")
    add("--global-batch-size", type=int, metavar="N", help="rows of a step, to tell the steps")
    add("--token-budget", metavar="N", help="instead of the recipe's, such as 10B")
    add("--json", dest="as_json", action="store_true", help="print JSON instead of a table")


def add_find_duplicates_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``find-duplicates``; names are the arguments of ``run_find_duplicates``."""
    add = parser.add_argument
    add("--input", nargs="+", metavar="PATH", help="files, folders, globs, @lists, URLs")
    add("--recipe", type=Path, metavar="F.yaml", help="instead: all sources of a mixture")
    add("--output", type=Path, required=True, metavar="FOLDER", help="the list, for the filter")
    add("--method", default="exact", choices=("exact", "near"))
    add("--normalisation", default="none", choices=("none", "trailing_whitespace"))
    add("--words", default="code", choices=("code", "text"), help="what near compares (code)")
    add("--n-grams", type=int, default=5, metavar="N", help="words of a shingle (5)")
    add("--num-buckets", type=int, default=14, metavar="N", help="chances to meet (14)")
    add("--hashes-per-bucket", type=int, default=8, metavar="N", help="equal for it (8)")
    add("--json-key", default="text", help="field that holds the text (text)")
    add("--template", metavar="T", help="a text made of fields")
    add("--dataset", metavar="NAME", help="a known corpus, which says where its text is")
    add("--suffixes", nargs="+", metavar="SUFFIX", help="which files of a folder count (.py)")
    add("--filters", type=Path, metavar="F.yaml", help="what documents have to pass first")
    add("--workers", type=int, default=1, metavar="N", help="processes (of each rank)")
    add("--mpi", action="store_true", help="share the work out over MPI ranks")
    add("--shard-mb", type=float, default=64, metavar="MB", help="input taken at a time (64)")


def _add_preparation_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of both preparations; those not given are left to their functions' own defaults."""
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="files, folders, globs, URLs")
    add("--output-prefix", type=Path, required=True, metavar="P")
    add("--tokenizer", type=Path, required=True, metavar="FOLDER_OR_MODEL")
    add("--suffixes", nargs="+", metavar="SUFFIX", help="which files of a folder count")
    add("--workers", type=int, metavar="N", help="processes (1)")
    add("--max-rejects", type=float, metavar="SHARE", help="broken records allowed (0.01)")
    add("--overwrite", action="store_true", help="replace what another run wrote")


def add_prepare_sft_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``prepare-sft``."""
    _add_preparation_flags(parser)
    add = parser.add_argument
    add("--prompt-key", metavar="NAME", help="field of the prompt, text or messages (prompt)")
    add("--response-key", metavar="NAME", help="field of the response (response)")
    add("--messages-key", metavar="NAME", help="instead: field of a whole conversation")
    add("--turns", choices=("last", "each"), help="of a conversation: which are learnt (last)")
    add("--template", choices=("chat", "none"), help="how prompts are rendered (chat)")
    add("--system", metavar="TEXT", help="the system's text where a prompt has none")
    add("--max-length", type=int, metavar="N", help="tokens of a sample; longer: dropped (4000)")
    add("--valid-share", type=float, metavar="SHARE", help="of the prompts, for P_valid (0)")
    add(
        "--evaluation-set",
        nargs="+",
        metavar="NAME=FILE",
        help="what samples may share nothing with",
    )
    add("--filters", type=Path, metavar="F.yaml", help="options of repetition, decontamination")
    add("--skip-rule", nargs="+", metavar="NAME", help="rules left out (docs/sft.md)")


def add_prepare_infill_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``prepare-infill``."""
    _add_preparation_flags(parser)
    add = parser.add_argument
    add("--json-key", metavar="NAME", help="field of the text (text)")
    add("--response-key", metavar="NAME", help="instead: field of a response")
    add(
        "--from",
        dest="take",
        choices=("whole", "fences"),
        help="learn whole texts, or the code between their ``` fences (whole)",
    )
    add("--max-length", type=int, metavar="N", help="tokens of a text; longer: dropped (1024)")
    add("--min-lines", type=int, metavar="N", help="that are not blank; fewer: dropped (2)")
    add("--min-characters", type=int, metavar="N", help="of a text; fewer: dropped (16)")
    add("--filters", type=Path, metavar="F.yaml", help="what texts have to pass (docs/data.md)")
    add("--valid-share", type=float, metavar="SHARE", help="of the texts, for P_valid (0)")


def add_analyze_padding_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``analyze-padding``."""
    add = parser.add_argument
    add("data", nargs="+", metavar="P", help="prefixes that prepare-sft wrote")
    add("--tokenizer", required=True, metavar="FOLDER_OR_MODEL")
    add("--output", required=True, type=Path, metavar="FOLDER")
    add("--sequence-length", type=int, default=4000, metavar="N")
    add("--global-batch-size", type=int, default=576, metavar="N")
    add("--micro-batch-size", type=int, default=8, metavar="N")
    add("--steps", type=int, default=20, metavar="N", help="global batches counted")


def add_train_tokenizer_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``tokenizer train``."""
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="PATH")
    parser.add_argument("--vocab-size", type=int, required=True, metavar="N")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.model")
    parser.add_argument("--json-key", default="text", help="field that holds the text (text)")
    parser.add_argument(
        "--suffixes",
        nargs="+",
        default=[".py"],
        metavar="SUFFIX",
        help="which files of a folder count (.py), such as .jsonl .jsonl.zst",
    )
