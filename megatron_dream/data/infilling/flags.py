"""Flags of ``prepare-infill``, apart from what it calls: the command line starts at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_prepare_infill_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``prepare-infill``; those not given are left to ``prepare_infill``'s own defaults."""
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="PATH", help="files, folders, globs, URLs")
    add("--output-prefix", type=Path, required=True, metavar="P")
    add("--tokenizer", type=Path, required=True, metavar="FOLDER_OR_MODEL")
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
    add("--suffixes", nargs="+", metavar="SUFFIX", help="which files of a folder count")
    add("--workers", type=int, metavar="N", help="processes (1)")
    add("--max-rejects", type=float, metavar="SHARE", help="broken records allowed (0.01)")
    add("--overwrite", action="store_true", help="replace what another run wrote")
