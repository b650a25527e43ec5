"""Flags of the verbs that train and of those around a run, apart from what they call."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``pretrain``, ``sft`` and ``rl``; any field of the configuration is one too."""
    parser.set_defaults(takes_overrides=True)
    parser.epilog = "Any field of the configuration: --section.field VALUE (docs/configuration.md)."
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.yaml")
    parser.add_argument(
        "--dry-run",
        type=int,
        metavar="N",
        help="rehearse the job for N GPUs in this process, without one: check all, start nothing",
    )
    parser.add_argument("--gpus-per-node", type=int, metavar="N", help="in a rehearsal (8)")
    parser.add_argument(
        "--without-files",
        action="store_true",
        help="in a rehearsal: tokenizer, data and checkpoints lie elsewhere",
    )
    parser.add_argument("--json", action="store_true", help="print a rehearsal as JSON")
    parser.add_argument(
        "--try-steps", type=int, metavar="N", help="run N steps, write nothing into the run folder"
    )
    parser.add_argument("--print-config", action="store_true", help="print it resolved, and stop")


def add_build_index_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``build-index``."""
    parser.set_defaults(takes_overrides=True)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.yaml")
    parser.add_argument(
        "--token-budget",
        metavar="N",
        help="tokens to plan for, such as 322e9 or 322B (default: those of the run's steps)",
    )


def add_status_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``status``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")


def add_reshard_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``reshard``."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--tp", type=int, required=True, metavar="N")
    parser.add_argument("--pp", type=int, required=True, metavar="N")
