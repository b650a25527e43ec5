"""Flags of ``judge`` and ``curate``, apart from what they call."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_judge_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``judge``."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--problems", type=Path, required=True, metavar="P.jsonl", help="with tests"
    )
    parser.add_argument("--samples", type=Path, required=True, metavar="S.jsonl", help="programs")
    parser.add_argument("--output", type=Path, required=True, metavar="R.jsonl", help="verdicts")
    parser.add_argument("--workers", type=int, metavar="N", help="programs at once (one a CPU)")
    _add_places(parser)


def add_curate_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``curate``; defaults stay in curation/command.py."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="SCHEMA:PATH",
        help="kodcode, deepcoder, guru or own, and JSON Lines, Parquet or folders of them",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--min-tests", type=int, metavar="N", help="of a problem (5)")
    parser.add_argument("--similarity", type=float, metavar="C", help="cosine of a copy (0.85)")
    parser.add_argument(
        "--embeddings", type=Path, metavar="FOLDER", help="of a sentence encoder: all-MiniLM-L6-v2"
    )
    parser.add_argument(
        "--difficulty",
        type=Path,
        metavar="MODEL_OR_FILE",
        help="any causal model's folder, an exported folder, a checkpoint, or a file of pass rates",
    )
    for flag, text in (
        ("--candidates", "for each prompt (8)"),
        ("--max-new-tokens", "of a candidate (768)"),
        ("--candidate-batch", "prompts at once (4)"),
        ("--max-problems", "at most so many in the end (all)"),
        ("--seed", "of the candidates (0)"),
        ("--workers", "programs judged at once (one a CPU)"),
        ("--judge-cpu-seconds", "of each process of a judged program (5)"),
    ):
        parser.add_argument(flag, type=int, metavar="N", help=text)
    parser.add_argument(
        "--judge-wall-seconds", type=float, metavar="S", help="of a judged program in all (15)"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="of the candidates (1.0)")
    parser.add_argument(
        "--drop-unsolved", action="store_true", help="drop what no candidate solves as well"
    )
    parser.add_argument(
        "--balance", metavar="SHARES", help="of the kinds, such as function=1,stdin=1,output=1"
    )
    _add_places(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Where judged programs run."""
    parser.add_argument(
        "--isolation",
        choices=("namespaces", "bubblewrap", "process"),
        help="process: limits only, for programs that are trusted (namespaces, else bubblewrap)",
    )
    parser.add_argument(
        "--endpoints", nargs="+", metavar="URL", help="of SandboxFusion, to judge there instead"
    )
